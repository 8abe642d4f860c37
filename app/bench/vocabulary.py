"""Words for synthetic prompts, and how many tokens they are: asked of the server where it tells, else taken as one."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from app.bench.client import Client
from app.bench.connection import Fault
from app.bench.routes import Body

_COMMON = (
    "about after again all also and any back because been before book both came can city come could country day did "
    "different does down each end even every eyes face family far father few find first food for found from get give "
    "go good great group had hand hard has have head help her here high him his home house how idea into just keep "
    "kind know land large last left letter life light like line little live long look made make man many men might "
    "more most mother mountain move much must name near need never new next night not now number off often old one "
    "only open other our out over page paper part people place plant play point read really right river road room "
    "run said same saw say school sea second see sentence set she should show side small some song sound story "
    "study such take talk tell than that the their them then there these they thing think this those thought three "
    "through time together took tree try turn two under until use very walk want was watch water way well went were "
    "what when where which while white who why will with without word work world would write year you young"
)
WORDS = tuple(_COMMON.split())
_REPEATS = 16
_AT_ONCE = 8
_FEWEST = 32
"""Words that are one token each; with fewer, prompts would be too much alike."""


@dataclass(frozen=True)
class Vocabulary:
    """`overhead` is what a server puts around every text, in tokens. `is_counted` tells whether it was asked."""

    words: tuple[str, ...] = WORDS
    overhead: int = 0
    is_counted: bool = False

    def prompt(self, chance: random.Random, tokens: int) -> str:
        """Words at random, `tokens` in all as far as is known, one at least."""
        return " ".join(chance.choices(self.words, k=max(1, tokens - self.overhead)))


Count = Callable[[str], Awaitable[int]]


async def find_vocabulary(client: Client, model: str | None) -> Vocabulary:
    """Of words that are one token each, by the tokenizer behind one of three routes; unasked where there is none."""
    for path, body in _dialects(model):
        try:
            return await _count_words(_counter(client, path, body))
        except Fault:
            continue
    return Vocabulary()


def _dialects(model: str | None) -> list[tuple[str, Callable[[str], Body]]]:
    """Quartet's, vLLM's and llama-server's; what has come back is the same in all: `tokens`, a list."""
    named: Body = {} if model is None else {"model": model}
    return [
        ("/v1/tokenize", lambda text: named | {"text": text}),
        ("/tokenize", lambda text: named | {"prompt": text}),
        ("/tokenize", lambda text: {"content": text, "add_special": True}),
    ]


def _counter(client: Client, path: str, body: Callable[[str], Body]) -> Count:
    async def count(text: str) -> int:
        answer: dict[str, Any] = await client.call("POST", path, body(text))
        tokens = answer.get("tokens")
        if not isinstance(tokens, list) or not tokens:
            raise Fault("protocol", f"{path} tells no tokens")
        return len(tokens)

    return count


async def _count_words(count: Count) -> Vocabulary:
    """A word said sixteen times is sixteen tokens, and what is put around the text."""
    found: dict[int, list[str]] = {}

    async def look(words: tuple[str, ...]) -> None:
        for word in words:
            overhead = await count(" ".join([word] * _REPEATS)) - _REPEATS
            if 0 <= overhead < _REPEATS:
                found.setdefault(overhead, []).append(word)

    await look(WORDS[:1])  # where there is no such route, one request shows it
    looks = (look(WORDS[first::_AT_ONCE]) for first in range(1, 1 + _AT_ONCE))
    for outcome in await asyncio.gather(*looks, return_exceptions=True):
        if outcome is not None:
            raise outcome
    overhead, words = max(found.items(), key=lambda entry: len(entry[1]), default=(0, []))
    if len(words) < _FEWEST:
        raise Fault("protocol", "few of the words are one token")
    return Vocabulary(tuple(sorted(words)), overhead, is_counted=True)
