"""Several translation models as one: which of them answers a pair of languages, and what language a text is in."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.errors import InvalidRequest
from app.tasks.base import Usage
from app.tasks.completion import Piece
from app.tasks.concurrency import gather_or_cancel
from app.tasks.html_text import Markup
from app.tasks.language_id import NOTHING, Detected, LanguageDetector
from app.tasks.language_names import english_name, language_of, listed_codes, readings
from app.tasks.translate import Alternative, Translate, TranslateOptions

AUTO = "auto"
SURE = 2.0
"""A language so many times as probable as the next is that of the text; else it is the likeliest that is translated."""


@dataclass(frozen=True)
class Direction:
    """One model and the codes that it takes."""

    task: Translate
    source: str
    target: str


@dataclass(frozen=True)
class Translation:
    """A text's alternatives, best first, and its language where that was asked for."""

    alternatives: list[Alternative]
    detected: Detected | None = None


Options = Callable[[Direction], TranslateOptions]


class Translators:
    """All `tasks` are asked for a pair of languages in turn; the first that can translates."""

    def __init__(self, tasks: Sequence[Translate], detector: LanguageDetector) -> None:
        self._tasks = tasks
        self._detector = detector
        self._found: dict[tuple[str, str], Direction | InvalidRequest] = {}

    def direction(self, source: str, target: str) -> Direction | None:
        """Who translates it, None where both are the same. Raises InvalidRequest that names the field."""
        if source == target:
            return None
        found = self._found.get((source, target))
        if found is None:
            found = self._found[source, target] = self._find(source, target)
        if isinstance(found, InvalidRequest):
            raise found
        return found

    def _find(self, source: str, target: str) -> Direction | InvalidRequest:
        refusals: list[InvalidRequest] = []
        for task in self._tasks:
            for to in readings(target):
                for given in readings(source):
                    try:
                        task.languages.way(given, to)
                    except InvalidRequest as error:
                        refusals.append(error)
                    else:
                        return Direction(task, given, to)
        if len(self._tasks) == 1:
            return refusals[0]
        return InvalidRequest(
            f"no served model translates from {source[:20]!r} to {target[:20]!r}; see /languages", "target"
        )

    async def translate(
        self, texts: Sequence[str], source: str, target: str, options: Options, usage: Usage
    ) -> list[Translation]:
        """Each text from `source`, or with `auto` from the language it is in; one in `target` already stays as it is.

        Raises InvalidRequest for what no model can do or hold.
        """
        heard: list[tuple[Detected | None, Direction | None]]
        if source == AUTO:
            heard = [self._choose(ranked, target) for ranked in await self._detector.rank(texts)]
        else:
            heard = [(None, self.direction(source, target))] * len(texts)
        groups: dict[Direction, list[int]] = {}
        for i, (_, direction) in enumerate(heard):
            if direction is not None:
                groups.setdefault(direction, []).append(i)
        works = [
            direction.task.translate([texts[i] for i in places], options(direction), usage)
            for direction, places in groups.items()
        ]
        answers = [[Alternative(text, 1.0)] for text in texts]
        for places, done in zip(groups.values(), await gather_or_cancel(works), strict=True):
            for i, alternatives in zip(places, done, strict=True):
                answers[i] = alternatives
        return [Translation(answer, found) for answer, (found, _) in zip(answers, heard, strict=True)]

    async def translate_html(
        self, sources: Sequence[str], source: str, target: str, options: Options, usage: Usage
    ) -> list[Translation]:
        """The same for HTML, whose language is that of all its text; scores are not told (1)."""
        pages = [Markup.read(page) for page in sources]
        directions: list[tuple[Detected | None, str]] = [(None, source)] * len(pages)
        if source == AUTO:
            ranks = await self._detector.rank([" ".join(page.texts) for page in pages])
            chosen = [self._choose(ranked, target) for ranked in ranks]
            directions = [(found, way.source if way else target) for found, way in chosen]
        works = [
            self.translate(page.texts, way, target, options, usage)
            for page, (_, way) in zip(pages, directions, strict=True)
        ]
        done = await gather_or_cancel(works)
        return [
            Translation(_written(page, texts), found)
            for page, texts, (found, _) in zip(pages, done, directions, strict=True)
        ]

    async def stream(
        self, text: str, target: str, options: Options, usage: Usage
    ) -> tuple[Detected, AsyncGenerator[Piece]]:
        """The language that a text is in, and its translation from there in pieces. Raises as `translate` does."""
        (ranked,) = await self._detector.rank([text])
        found, direction = self._choose(ranked, target)
        if direction is None:
            return found, _unchanged(text)
        return found, direction.task.stream_translation(text, options(direction), usage)

    def languages(self) -> dict[str, list[str]]:
        """Listed source → its targets, over all models."""
        listed: dict[str, dict[str, None]] = {}
        for task in self._tasks:
            for source, targets in _pairs(task.languages.told()).items():
                listed.setdefault(source, {}).update(dict.fromkeys(targets))
        return {source: [to for to in targets if to != source] for source, targets in listed.items()}

    def _choose(self, ranked: Sequence[Detected], target: str) -> tuple[Detected, Direction | None]:
        """The text's language and who translates it from there, None where it stays as it is. Raises InvalidRequest."""
        best = ranked[0]
        if best == NOTHING:
            return best, None
        wanted = language_of(target)
        is_sure = len(ranked) == 1 or best.confidence >= SURE * ranked[1].confidence
        if is_sure and best.language == wanted:
            return best, None
        for found in ranked[:1] if is_sure else ranked:
            try:
                direction = self.direction(found.language, target)
            except InvalidRequest:
                continue
            if found.language != wanted:
                return found, direction
        raise InvalidRequest(
            f"the text seems to be in {english_name(best.language)} ({best.language}), from which no served model "
            f"translates to {target[:20]!r}",
            "source",
        )


async def _unchanged(text: str) -> AsyncGenerator[Piece]:
    yield Piece(0, text, [], finish_reason="stop")


def spoken(told: Mapping[str, Any]) -> set[str]:
    """The languages, in two letters, that a checkpoint translates from, out of what it told."""
    return {language_of(source) for source in _pairs(told)}


def _pairs(told: Mapping[str, Any]) -> dict[str, list[str]]:
    """Listed source → listed targets of one checkpoint; nothing where it does not tell its source."""
    if "any" in told:
        every = list(listed_codes(told["any"]).values())
        return dict.fromkeys(every, every)
    pairs: list[list[str]] = told.get("pairs", [])
    sources, targets = (listed_codes({pair[side] for pair in pairs}) for side in (0, 1))
    found: dict[str, list[str]] = {}
    for source, target in pairs:
        found.setdefault(sources[source], []).append(targets[target])
    return found


def _written(page: Markup, texts: Sequence[Translation]) -> list[Alternative]:
    """The k-th alternative of a page has the k-th of each text, or where that has fewer its best."""
    count = max((len(text.alternatives) for text in texts), default=1)
    rows = [
        [text.alternatives[k if k < len(text.alternatives) else 0].text for text in texts]
        for k in range(count)
    ]
    return [Alternative(page.write(row), 1.0) for row in rows]
