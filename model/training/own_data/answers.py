"""Answers out of a text: learnt and scored as SQuAD does."""

from collections.abc import Sequence
from dataclasses import replace

from model.training.finetune import ExtractiveAnswers
from model.training.intervals import mean_score
from model.training.metrics import squad_scores
from model.training.own_data.examples import Example
from model.training.own_data.learner import Results, Setting
from model.training.spans import PairTemplate, Question
from model.transformer import Transformer

_NEGATIVES = 0.08
"""Share of windows without their answer, so that windows of a long text can be compared."""


class AnswerFinder:
    """Where the answer to a question begins and ends, by a span head on an encoder."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.config = replace(setting.base, head="span", labels=())

    def token_counts(self, examples: Sequence[Example]) -> list[int]:
        """See `Learner`."""
        texts = [(example.inputs[0], example.inputs[1]) for example in examples]
        return [len(encoding.ids) for encoding in self._setting.tokenizer.encode_batch(texts)]

    def objective(self, train: Sequence[Example], dev: Sequence[Example]) -> ExtractiveAnswers:
        """See `Learner`."""
        setting = self._setting
        return ExtractiveAnswers(
            [_question(example) for example in train],
            [_question(example) for example in dev],
            setting.tokenizer,
            max_length=setting.plan.max_length,
            negatives=_NEGATIVES,
            template=PairTemplate.of(setting.tokenizer),
            pad_id=self.config.pad_token_id,
            head=setting.head,
            adapter=setting.adapter,
            seed=setting.plan.seed,
        )

    def finish(self, model: Transformer, dev: Sequence[Example]) -> dict[str, float | str]:
        """Nothing."""
        return {}

    def score(self, model: Transformer, test: Sequence[Example]) -> Results:
        """SQuAD's exact match and F1."""
        predicted = self.objective([], []).answer(model, [_question(example) for example in test])
        each = [squad_scores([guess], [[e.output]]) for guess, e in zip(predicted, test, strict=True)]
        names = {"exact match": "exact_match", "F1": "f1"}
        return Results([mean_score(name, [row[key] for row in each]) for name, key in names.items()])


def _question(example: Example) -> Question:
    question, context = example.inputs
    span = (example.start, example.start + len(example.output))
    return Question(str(example.row), question, context, (example.output,), (span,))
