"""Which requests should meet in one replica, and how a prefix finds its own."""

import json
from typing import Any

import pytest

from deploy.ray.prefix import PREFIX_CHARACTERS, prefix_of

LONG = "You answer in verse. " * 20


def key(**fields: Any) -> str | None:
    return prefix_of(json.dumps(fields).encode())


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def test_a_chat_keeps_its_key_as_it_grows() -> None:
    start = [turn("system", "Be brief."), turn("user", "Hello")]
    more = [*start, turn("assistant", "Hi"), turn("user", "How are you?")]
    assert key(messages=start) == key(messages=more) is not None
    assert key(messages=start) != key(messages=[start[0], turn("user", "Goodbye")])


def test_a_long_system_prompt_gathers_its_chats() -> None:
    assert len(LONG) > PREFIX_CHARACTERS
    first, second = ([turn("system", LONG), turn("user", text)] for text in ("one", "two"))
    assert key(messages=first) == key(messages=second)


@pytest.mark.parametrize("field", ["prompt", "inputs", "text"])
def test_prompts_with_one_beginning_have_one_key(field: str) -> None:
    assert key(**{field: LONG + "a"}) == key(**{field: LONG + "b"}) is not None
    assert key(**{field: "a" + LONG}) != key(**{field: "b" + LONG})
    assert key(**{field: [LONG, "other"]}) == key(**{field: LONG})


def test_a_key_is_one_models() -> None:
    assert key(prompt="Hello", model="a") != key(prompt="Hello", model="b")


def test_token_ids_have_a_key_too() -> None:
    assert key(prompt=[1, 2, 3]) == key(prompt=[[1, 2, 3]]) is not None
    assert key(prompt=[1, 2, 3]) != key(prompt=[3, 2, 1])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1]",
        b'"text"',
        b"q=Hello&source=en",
        b'{"query": "x"}',
        b'{"prompt": null}',
        b'{"prompt": []}',
        b'{"messages": 7}',
        b'{"messages": ["x"]}',
        b'{"prompt": ' + b"[" * 100_000,
        b"\xff\xfe",
    ],
)
def test_any_other_body_has_none(body: bytes) -> None:
    assert prefix_of(body) is None


def test_half_a_character_is_no_fault() -> None:
    prefix_of(b'{"prompt": "\\ud800"}')
