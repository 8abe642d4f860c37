"""`python -m benchmarks.zoo_scores --data DIR [--limit N]`: the packaged models' scores, through the service's routes.

Starts `quartet serve`, sends it the test sets, scores its answers as `model.training evaluate` scores the model's own,
and holds both against each other: value by value, and answer by answer.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import torch

from benchmarks.measure import Claim, Report
from benchmarks.service import Service
from model.training.evaluate import Evaluation, Test, sets_of
from model.training.recipes import RECIPES
from model.training.scoring import Answerable, Answers, Found, Guess, Labels, Scores

ZOO = Path(__file__).parents[1] / "model" / "zoo"
MODELS = ("intent", "banking", "sentiment", "qa", "translator")
MOST_DIFFERENT = 0.1
"""Per cent of the rows: the service computes them in other batches, and rounding may turn a near tie."""
_TOGETHER = 64
_EVERY_SPAN = 100

Post = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
"""A body to a path; the answer."""


def served_answers(post: Post, model: str, test: Test) -> list[Any]:
    """What the service answers to a test set, as the set's `score` takes it."""
    if isinstance(test, Labels):
        results = _in_parts(
            test.texts,
            lambda texts: post("/v1/classify", {"model": model, "text": texts, "top_k": 2})["results"],
        )
        return [Guess(best["label"], best["score"], next_["label"]) for (best, next_) in results]
    if isinstance(test, Answers | Answerable):
        options = {"allow_no_answer": True, "top_k": _EVERY_SPAN} if isinstance(test, Answerable) else {}
        inputs = [{"question": q.question, "context": q.context} for q in test.questions]
        answers = _in_parts(
            inputs, lambda some: post("/v1/qa", {"model": model, "inputs": some, **options})["answers"]
        )
        return [_found(one) for one in answers]
    body = {"model": model, "source": "en", "target": test.language, "split_sentences": False}
    translations = _in_parts(
        test.sources, lambda texts: post("/v1/translate", {**body, "text": texts})["translations"]
    )
    return [one["text"] for one in translations]


def disagreement(test: Test, ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    """The share in per cent of answers that say something else; probabilities may differ by rounding."""
    may_refuse = isinstance(test, Answerable)
    differ = [_said(a, may_refuse) != _said(b, may_refuse) for a, b in zip(ours, theirs, strict=True)]
    return 100.0 * sum(differ) / max(1, len(differ))


def main(arguments: list[str]) -> int:
    """The exit status: 1 where the service answers otherwise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo_scores", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="rows of each test set, evenly spread; all by default")
    parser.add_argument("--only", default="", help="the models whose name contains this")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for the JSON (results)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    report = Report("zoo_scores", [])
    with (
        Service(["--threads", str(options.threads)]) as service,
        httpx.Client(base_url=f"http://127.0.0.1:{service.port}", timeout=600) as client,
        torch.inference_mode(),
    ):
        for name in MODELS:
            if options.only in name:
                report.claims += _claims(_poster(client), name, options, report.details)
    print(report.table(), f"\n\nkept in {report.save(options.out)}\n", flush=True)
    return 0 if all(claim.is_met is not False for claim in report.claims) else 1


def _claims(post: Post, name: str, options: argparse.Namespace, details: dict[str, Any]) -> list[Claim]:
    """ "Ours" is through the service, "theirs" by the evaluation."""
    recipe = RECIPES[name]
    run = Evaluation(recipe, ZOO / name, ZOO / "minilm" if recipe.lora is not None else None)
    claims = []
    for title, test in sets_of(recipe, options.data, options.limit).items():
        ours, theirs = served_answers(post, name, test), run.answer(test)
        scores = {"service": test.score(ours), "evaluation": test.score(theirs)}
        details[f"{name}: {title}"] = scores
        what = f"{name}, {title}"
        claims += [
            Claim(f"{what}: {measure}", "%", [_value(scores["service"], measure)], [value["value"]])
            for measure, value in scores["evaluation"].items()
            if isinstance(value, dict)
        ]
        claims.append(
            Claim(
                f"{what}: answered otherwise", "%", [disagreement(test, ours, theirs)], target=MOST_DIFFERENT
            )
        )
    return claims


def _poster(client: httpx.Client) -> Post:
    def post(path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        answer = client.post(path, json=body)
        answer.raise_for_status()
        found: Mapping[str, Any] = answer.json()
        return found

    return post


def _in_parts(rows: Sequence[Any], ask: Callable[[Sequence[Any]], Sequence[Any]]) -> list[Any]:
    return [
        answer for at in range(0, len(rows), _TOGETHER) for answer in ask(list(rows[at : at + _TOGETHER]))
    ]


def _found(answers: Sequence[Mapping[str, Any]]) -> Found:
    """Of one question, best first; having no answer is told as an empty one."""
    none = [answer for answer in answers if answer["start"] == answer["end"]]
    best = answers[0]
    return Found(best["answer"], none[0]["score"] if none else 0.0, best["start"] == best["end"])


def _said(answer: Guess | Found | str, may_refuse: bool) -> str:
    if isinstance(answer, Guess):
        return answer.label
    if isinstance(answer, Found):
        return "" if may_refuse and answer.is_refused else answer.text
    return answer


def _value(scores: Scores, measure: str) -> float:
    value = scores[measure]
    assert isinstance(value, dict)
    return value["value"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
