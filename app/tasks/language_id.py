"""Which language a text is in, by lingua's models of letter sequences (extra `langid`), loaded when first asked for."""

import asyncio
import importlib
import importlib.util
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from app.errors import InvalidRequest
from app.tasks.language_codes import SHORT
from app.tasks.sentences import has_letters

COMMON = frozenset(
    (
        "ar",
        "cs",
        "de",
        "en",
        "es",
        "fr",
        "hi",
        "it",
        "ja",
        "ko",
        "nl",
        "pl",
        "pt",
        "ru",
        "sv",
        "tr",
        "uk",
        "zh",
    )
)
"""What is told apart beside what the served models translate."""

READ_CHARACTERS = 1000
"""How much of a text's beginning is looked at; more changes nothing but the time."""

_INSTALL = "the language can only be detected with lingua: pip install 'quartet[langid]'"
_LOAD_PAUSE = 0.005


@dataclass(frozen=True)
class Detected:
    """A language, in two letters, and its probability among those that are told apart."""

    language: str
    confidence: float


NOTHING = Detected("en", 0.0)
"""For a text without letters."""


def is_installed() -> bool:
    """Whether languages can be detected here."""
    return importlib.util.find_spec("lingua") is not None


class LanguageDetector:
    """Tells `languages` (two letters; those lingua does not know are left out) apart, in threads of `pool`.

    About 24 MB a language, which are read one after the other, since lingua lets no other thread run while it reads.
    """

    def __init__(self, pool: Executor, languages: Iterable[str]) -> None:
        self._pool = pool
        self._languages = frozenset(languages)
        self._lock = threading.Lock()
        self._lingua: Any = None
        self._known: frozenset[str] = frozenset()

    def learn(self, languages: Iterable[str]) -> None:
        """Tells these apart too, from the next text on."""
        self._languages |= frozenset(languages)

    async def rank(self, texts: Sequence[str]) -> list[list[Detected]]:
        """The languages of each text, likeliest first; `NOTHING` alone for one without letters.

        Raises InvalidRequest where lingua is not installed.
        """
        if not is_installed():
            raise InvalidRequest(_INSTALL, "source", "unsupported_parameter")
        return await asyncio.get_running_loop().run_in_executor(
            self._pool, lambda: [self._rank(text) for text in texts]
        )

    def _rank(self, text: str) -> list[Detected]:
        beginning = text.lstrip()[:READ_CHARACTERS]
        if not has_letters(beginning):
            return [NOTHING]
        values = self._load().compute_language_confidence_values(beginning)
        ranked = [Detected(_short(value.language), value.value) for value in values if value.value > 0]
        return ranked or [NOTHING]

    def _load(self) -> Any:
        with self._lock:
            languages = self._languages
            if self._lingua is None or self._known != languages:
                lingua: Any = importlib.import_module("lingua")
                wanted = [one for one in lingua.Language.all() if _short(one) in languages]
                for (
                    one
                ) in wanted:  # its models are shared by all detectors, and a detector takes two languages
                    pair = (one, wanted[0] if one is not wanted[0] else wanted[1])
                    lingua.LanguageDetectorBuilder.from_languages(
                        *pair
                    ).with_preloaded_language_models().build()
                    time.sleep(_LOAD_PAUSE)  # the event loop's turn
                self._lingua = lingua.LanguageDetectorBuilder.from_languages(*wanted).build()
                self._known = languages
            return self._lingua


def _short(language: Any) -> str:
    code = str(language.iso_code_639_1.name).lower()
    return SHORT.get(code, code)
