"""Text in, text out: translation and everything like it, learnt and scored."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import sacrebleu

from model.config import CheckpointError, TransformerConfig
from model.training.intervals import corpus_score, mean_score
from model.training.metrics import bleu_of
from model.training.own_data.examples import Example
from model.training.own_data.learner import Results, Setting, cut
from model.training.own_data.plan import Plan
from model.training.text_to_text import Pair, PairLoss, TextToText, translate
from model.transformer import Transformer

NOT_TRAINED: Mapping[str, str] = {
    "marian": "its targets would have to be cut by target.spm, which is only used to write answers",
    "mbart": "its texts begin or end with tokens for their languages",
    "m2m_100": "its texts begin with tokens for their languages",
}
"""Families that are served and not trained, and why."""
_TASKS = "task_specific_params"


class PairWriter:
    """Source to target by an encoder-decoder."""

    def __init__(self, setting: Setting) -> None:
        """Raises CheckpointError for a base that is not trained, or that is to be told its languages."""
        self._setting = setting
        base = setting.base
        if base.family in NOT_TRAINED:
            raise CheckpointError(
                f"{setting.plan.base}: {base.family} is not trained: {NOT_TRAINED[base.family]}"
            )
        self.prefix, self.config = _asked(setting.plan, base)
        self._start = base.decoder_start_token_id or 0

    def token_counts(self, examples: Sequence[Example]) -> list[int]:
        """See `Learner`."""
        sources, targets = self._encode(examples, None)
        return [max(len(source), len(target)) for source, target in zip(sources, targets, strict=True)]

    def objective(self, train: Sequence[Example], dev: Sequence[Example]) -> TextToText:
        """See `Learner`."""
        setting = self._setting
        pad_id = self.config.pad_token_id
        return TextToText(
            self._pairs(train),
            start=self._start,
            pad_id=pad_id,
            label_smoothing=setting.plan.label_smoothing,
            validate=PairLoss(self._pairs(dev), self._start, pad_id, setting.adapter),
            adapter=setting.adapter,
        )

    def finish(self, model: Transformer, dev: Sequence[Example]) -> dict[str, float | str]:
        """Nothing."""
        return {"prefix": self.prefix} if self.prefix else {}

    def score(self, model: Transformer, test: Sequence[Example]) -> Results:
        """chrF, for a translation BLEU too, for other texts how many are as expected to the letter."""
        setting = self._setting
        sources, _ = self._encode(test, setting.plan.max_length)
        answers = translate(model, sources, setting.generation, adapter=setting.adapter)
        guesses = [setting.tokenizer.decode(ids) for ids in answers]
        expected = [example.output for example in test]
        scores = [corpus_score("chrF", sacrebleu.CHRF(), guesses, expected)]
        if setting.plan.task == "translation":
            bleu = bleu_of(setting.plan.target_language)
            return Results([corpus_score("BLEU", bleu, guesses, expected), *scores])
        equal = [100.0 * (guess.strip() == e.strip()) for guess, e in zip(guesses, expected, strict=True)]
        return Results([*scores, mean_score("exact match", equal)])

    def _pairs(self, examples: Sequence[Example]) -> list[Pair]:
        return list(zip(*self._encode(examples, self._setting.plan.max_length), strict=True))

    def _encode(
        self, examples: Sequence[Example], limit: int | None
    ) -> tuple[list[list[int]], list[list[int]]]:
        """Sources behind their prefix, and targets with their end token."""
        tokenizer = self._setting.tokenizer
        sources = tokenizer.encode_batch([self.prefix + example.inputs[0] for example in examples])
        targets = tokenizer.encode_batch([example.output for example in examples])
        ends = self.config.eos_token_ids
        read = [cut(source, limit or len(source.ids)) for source in sources]
        said = [cut(target, limit or len(target.ids)) for target in targets]
        return read, [ids if not ends or ids[-1:] == [ends[0]] else [*ids, ends[0]] for ids in said]


def _asked(plan: Plan, base: TransformerConfig) -> tuple[str, TransformerConfig]:
    """The words before each source, and the config that tells the service of them."""
    if plan.task != "translation":
        return plan.prefix or "", base
    published = base.extra.get(_TASKS)
    tasks: dict[str, Any] = dict(published) if isinstance(published, Mapping) else {}
    pairs = [name for name in tasks if name.startswith("translation_")]
    if plan.source_language and plan.target_language:
        name = f"translation_{plan.source_language}_to_{plan.target_language}"
    elif len(pairs) == 1:
        name = pairs[0]
    else:
        known = f" (it has {', '.join(pairs)})" if pairs else ""
        raise CheckpointError(
            f"{plan.base}: say what is translated with --source-language and --target-language{known}"
        )
    told = tasks.get(name)
    prefix = plan.prefix
    if prefix is None:
        prefix = (
            told.get("prefix", "") if isinstance(told, Mapping) else f"translate to {plan.target_language}: "
        )
    tasks[name] = {**(told if isinstance(told, Mapping) else {}), "prefix": prefix}
    return prefix, replace(base, extra={**base.extra, _TASKS: tasks})
