"""The scores that papers report: accuracy, macro-F1, SQuAD's EM and F1, BLEU and chrF."""

import re
import string
from collections import Counter
from collections.abc import Sequence

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


def translation_scores(
    predicted: Sequence[str], references: Sequence[str], language: str
) -> dict[str, float | str]:
    """Corpus BLEU and chrF with sacrebleu's signature; Chinese is cut into characters."""
    bleu = sacrebleu.BLEU(tokenize="zh" if language == "zh" else "13a")
    score = bleu.corpus_score(list(predicted), [list(references)])
    chrf = sacrebleu.CHRF().corpus_score(list(predicted), [list(references)])
    return {"bleu": score.score, "chrf": chrf.score, "signature": str(bleu.get_signature())}
