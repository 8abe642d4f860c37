"""What a request's text begins with, as a short key: requests with equal keys should meet in one replica's prefix
cache."""

from hashlib import blake2b
from typing import Any

import msgspec

PREFIX_CHARACTERS = 256
"""Of a prompt. A system prompt of so many characters gathers all its chats; what is shorter parts them by what comes
next."""

_ROLES_BEFORE_CHAT = frozenset({"system", "developer"})


class _Fields(msgspec.Struct):
    """Those of any route's body that say which cache would help; all else is skipped unread."""

    model: Any = None
    prompt: Any = None
    messages: Any = None
    inputs: Any = None
    text: Any = None


_decode = msgspec.json.Decoder(_Fields).decode


def prefix_of(body: bytes) -> str | None:
    """The key of a JSON body: the model and the beginning of its prompt, its first text, or its chat up to the first
    turn, so that a chat keeps its key as it grows. None where there is no such thing: any replica is as good."""
    try:
        fields = _decode(body)
    except (msgspec.MsgspecError, RecursionError):
        return None
    text = _beginning_of_chat(fields.messages)
    for value in (fields.prompt, fields.inputs, fields.text):
        text = text or _first_text(value)
    if not text:
        return None
    named = f"{fields.model}\n{text[:PREFIX_CHARACTERS]}"
    return blake2b(named.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _first_text(value: Any) -> str:
    """Token ids count as text; so does the first of several prompts."""
    if isinstance(value, list) and value:
        return str(value[:PREFIX_CHARACTERS]) if isinstance(value[0], int) else _first_text(value[0])
    return value if isinstance(value, str) else ""


def _beginning_of_chat(messages: Any) -> str:
    """What comes before the first answer, as far as it is text."""
    if not isinstance(messages, list):
        return ""
    beginning = []
    for message in messages:
        if not isinstance(message, dict):
            break
        beginning.append(f"{message.get('role')}\n{message.get('content')}\n")
        if message.get("role") not in _ROLES_BEFORE_CHAT:
            break
    return "".join(beginning)
