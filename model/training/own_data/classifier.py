"""Labels of texts: learnt, calibrated and scored."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from model.training.calibration import calibration_error, find_temperature, fold_temperature
from model.training.finetune import Classification
from model.training.intervals import macro_f1_of, mean_score, resampled
from model.training.own_data.examples import Example
from model.training.own_data.learner import Results, Setting, cut
from model.transformer import Transformer

_MOST_CONFUSED = 10


class Classifier:
    """One label a text, by a sequence-class head on an encoder."""

    def __init__(self, setting: Setting, examples: Sequence[Example]) -> None:
        """`examples` are all of the data: every label gets its place. A base that has these labels keeps its order."""
        labels = sorted({example.output for example in examples})
        if setting.base.head == "sequence-class" and sorted(setting.base.labels) == labels:
            labels = list(setting.base.labels)
        self._setting = setting
        self._numbers = {label: number for number, label in enumerate(labels)}
        self.config = replace(setting.base, head="sequence-class", labels=tuple(labels), multi_label=False)

    def token_counts(self, examples: Sequence[Example]) -> list[int]:
        """See `Learner`."""
        encoded = self._setting.tokenizer.encode_batch([example.inputs[0] for example in examples])
        return [len(encoding.ids) for encoding in encoded]

    def objective(self, train: Sequence[Example], dev: Sequence[Example]) -> Classification:
        """See `Learner`."""
        setting = self._setting
        return Classification(
            self._encoded(train),
            self._encoded(dev),
            pad_id=self.config.pad_token_id,
            label_smoothing=setting.plan.label_smoothing,
            head=setting.head,
            adapter=setting.adapter,
        )

    def finish(self, model: Transformer, dev: Sequence[Example]) -> dict[str, float | str]:
        """Calibrates on the development rows."""
        if not dev:
            return {}
        rows = self._encoded(dev)
        logits = self.objective([], []).logits(model, [ids for ids, _ in rows])
        temperature = find_temperature(logits, [label for _, label in rows])
        fold_temperature(model, self._setting.head, temperature)
        return {"temperature": temperature}

    def score(self, model: Transformer, test: Sequence[Example]) -> Results:
        """Accuracy, macro-F1, calibration, each label's own scores and what is taken for what."""
        rows = self._encoded(test)
        logits = self.objective([], []).logits(model, [ids for ids, _ in rows])
        predicted, expected = logits.argmax(-1).tolist(), [label for _, label in rows]
        right = [100.0 * (guess == label) for guess, label in zip(predicted, expected, strict=True)]
        statistic = macro_f1_of(predicted, expected, len(self._numbers))
        scores = [mean_score("accuracy", right), resampled("macro-F1", statistic, len(rows))]
        labels = self.config.labels
        per_label = []
        for number, label in enumerate(labels):
            hits = sum(p == e == number for p, e in zip(predicted, expected, strict=True))
            said, there = predicted.count(number), expected.count(number)
            per_label.append([label, str(there), _share(hits, said), _share(hits, there)])
        confused = Counter((labels[e], labels[p]) for p, e in zip(predicted, expected, strict=True) if p != e)
        pairs = [[*pair, str(count)] for pair, count in confused.most_common(_MOST_CONFUSED)]
        tables = [("Labels", ["label", "test rows", "precision", "recall"], per_label)]
        if pairs:
            tables.append(("Most confused", ["label", "taken for", "times"], pairs))
        most = max(map(expected.count, set(expected)))
        facts: dict[str, float | str] = {
            "ECE": calibration_error(logits, expected),
            "accuracy of always the commonest label": 100.0 * most / len(expected),
        }
        return Results(scores, facts, tables)

    def _encoded(self, examples: Sequence[Example]) -> list[tuple[list[int], int]]:
        encoded = self._setting.tokenizer.encode_batch([example.inputs[0] for example in examples])
        limit = self._setting.plan.max_length
        return [
            (cut(encoding, limit), self._numbers[example.output])
            for encoding, example in zip(encoded, examples, strict=True)
        ]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f}" if whole else "–"
