"""In whose words a client is told of an error. The path alone decides, so that what is refused before any route is
found (a body too large, a missing key) has the right shape, too."""

from typing import Literal

Dialect = Literal["openai", "huggingface", "libretranslate"]

_BY_PATH: dict[str, Dialect] = {
    "/": "huggingface",
    "/translate": "libretranslate",
    "/languages": "libretranslate",
    "/detect": "libretranslate",
    "/frontend/settings": "libretranslate",
}
_BY_PREFIX: dict[str, Dialect] = {"/pipeline/": "huggingface", "/models/": "huggingface"}


def dialect_of(path: str) -> Dialect:
    """The family of clients that call this path; ours and OpenAI's share one shape, and whatever is unknown has it."""
    known = _BY_PATH.get(path)
    if known is not None:
        return known
    return next((dialect for prefix, dialect in _BY_PREFIX.items() if path.startswith(prefix)), "openai")
