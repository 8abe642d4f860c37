"""The scores that papers report: accuracy, macro-F1, SQuAD's EM and F1, BLEU and chrF, the area under a ROC curve."""

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import sacrebleu


def accuracy(predicted: Sequence[object], expected: Sequence[object]) -> float:
    """Share of equal entries, in per cent."""
    return 100.0 * sum(a == b for a, b in zip(predicted, expected, strict=True)) / max(1, len(expected))


def macro_f1(predicted: Sequence[object], expected: Sequence[object]) -> float:
    """The unweighted mean over the expected classes of each one's F1, in per cent."""
    classes = set(expected)
    total = 0.0
    for name in classes:
        both = sum(p == name and e == name for p, e in zip(predicted, expected, strict=True))
        either = sum(p == name for p in predicted) + sum(e == name for e in expected)
        total += 2 * both / either
    return 100.0 * total / max(1, len(classes))


def recall(predicted: Sequence[object], expected: Sequence[object], name: object) -> float:
    """Share of the entries of class `name` that were found, in per cent."""
    chosen = [p for p, e in zip(predicted, expected, strict=True) if e == name]
    return 100.0 * sum(p == name for p in chosen) / max(1, len(chosen))


def ranking_quality(scores: npt.ArrayLike, is_positive: npt.ArrayLike) -> float:
    """Area under the ROC curve, in per cent: how often a positive entry scores above a negative one, equals by half."""
    values, positive = np.asarray(scores, dtype=np.float64), np.asarray(is_positive, dtype=bool)
    low, high = np.sort(values[~positive]), values[positive]
    if not len(low) or not len(high):
        return 50.0
    wins = np.searchsorted(low, high, "left") + np.searchsorted(low, high, "right")
    return 100.0 * float(wins.mean()) / (2 * len(low))


def normalise_answer(text: str) -> str:
    """SQuAD v1.1's normal form: lower case, no ASCII punctuation, no articles, single spaces."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def squad_scores(predicted: Sequence[str], answers: Sequence[Sequence[str]]) -> dict[str, float]:
    """Exact match and F1 against the best of each question's answers (Rajpurkar et al. 2016), in per cent."""
    exact = f1 = 0.0
    for guess, accepted in zip(predicted, answers, strict=True):
        exact += max(normalise_answer(guess) == normalise_answer(answer) for answer in accepted)
        f1 += max(_bag_f1(guess, answer) for answer in accepted)
    count = max(1, len(predicted))
    return {"exact_match": 100.0 * exact / count, "f1": 100.0 * f1 / count}


def _bag_f1(guess: str, answer: str) -> float:
    ours, theirs = normalise_answer(guess).split(), normalise_answer(answer).split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    if not common:
        return 0.0
    precision, found = common / len(ours), common / len(theirs)
    return 2 * precision * found / (precision + found)


def bleu_of(language: str | None) -> sacrebleu.BLEU:
    """BLEU for translations into a language: Chinese by characters, others by sacrebleu's own words."""
    return sacrebleu.BLEU(tokenize="zh" if language == "zh" else "13a")


def translation_scores(
    predicted: Sequence[str], references: Sequence[str], language: str
) -> dict[str, float | str]:
    """Corpus BLEU and chrF with sacrebleu's signature."""
    bleu = bleu_of(language)
    score = bleu.corpus_score(list(predicted), [list(references)])
    chrf = sacrebleu.CHRF().corpus_score(list(predicted), [list(references)])
    return {"bleu": score.score, "chrf": chrf.score, "signature": str(bleu.get_signature())}
