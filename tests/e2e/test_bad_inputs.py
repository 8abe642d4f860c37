"""What only the engine, its compiler or its vocabulary can refuse, asked of the packaged models over a socket."""

from contextlib import closing
from typing import Any

import pytest

from tests.api.bad_inputs import Bad
from tests.api.test_bad_inputs import Client, check_words
from tests.e2e.conftest import Process

GOOD = Bad("good", "/v1/generate", {"prompt": "Once", "max_tokens": 2}, "")
VOCABULARY = 10**6
"""Beyond all packaged models'."""
RECURSIVE = {"$ref": "#/$defs/node", "$defs": {"node": {"$ref": "#/$defs/node"}}}
ENDLESS = {
    "type": "object",
    "properties": {"next": {"$ref": "#"}},
    "required": ["next"],
    "additionalProperties": False,
}


def generate(name: str, names: str, **fields: Any) -> Bad:
    return Bad(name, "/v1/generate", {"prompt": "Once", "max_tokens": 4} | fields, names)


BAD = [
    generate("a grammar that is none", "grammar", grammar="start: ((("),
    generate("a grammar without a start", "grammar", grammar="other: /a/"),
    generate("a grammar of a rule that is missing", "grammar", grammar="start: other"),
    generate("a regex that is open", "regex", regex="(a"),
    generate("a regex that looks behind", "regex", regex="(?<=a)b"),
    generate("a schema that is only itself", "json_schema", json_schema=RECURSIVE),
    generate("a schema from elsewhere", "json_schema", json_schema={"$ref": "https://example.com/schema"}),
    generate("a schema of an unknown type", "json_schema", json_schema={"type": "number of rooms"}),
    generate("a schema of nothing", "json_schema", json_schema=False),
    generate("a prompt over the context", "prompt", prompt="once upon a time " * 4000),
    generate("a limit over the context", "max_tokens", max_tokens=10**6),
    generate("a stop token out of the vocabulary", "stop_token_ids", stop_token_ids=[VOCABULARY]),
    generate("a bias out of the vocabulary", "logit_bias", logit_bias={str(VOCABULARY): 1}),
    generate("a language of a decoder", "forced_bos_token", forced_bos_token=5),
    generate("texts times beams", "num_beams", n=16, num_beams=16),
    generate("more texts than beams", "n", n=4, num_beams=2),
    generate("texts times candidates", "best_of", n=20, best_of=60),
    Bad("token ids out of the vocabulary", "/v1/completions", {"prompt": [1, VOCABULARY]}, "prompt"),
    Bad("vectors of ids out of it", "/v1/embeddings", {"input": [[5], [VOCABULARY]]}, "input"),
    Bad(
        "more dimensions than there are", "/v1/embeddings", {"input": "a", "dimensions": 10**6}, "dimensions"
    ),
    Bad("detokenized ids out of it", "/v1/detokenize", {"tokens": [VOCABULARY]}, "tokens"),
    Bad("a language that it does not know", "/v1/translate", {"text": "Hi", "target": "tlh"}, "target"),
    Bad(
        "beams of a translation", "/v1/translate", {"text": "Hi", "target": "de", "n": 9, "num_beams": 8}, "n"
    ),
    Bad("a text over the context", "/v1/classify", {"text": "word " * 4000}, "text"),
    Bad("the mask of another model", "/v1/fill-mask", {"text": "Paris is <mask>."}, "text"),
    Bad("twenty megabytes of text", "/v1/classify", {"text": "x" * (20 << 20)}, "limit", 413),
    Bad(
        "a chat with nobody", "/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}, "chat"
    ),
    Bad(
        "a grammar as Hugging Face says it",
        "/models/writer",
        {"inputs": "a", "parameters": {"grammar": {"type": "regex", "value": "(a"}}},
        "grammar",
    ),
    Bad("a pair that nobody has", "/translate", {"q": "Hi", "source": "de", "target": "en"}, "target"),
]
ODD = [
    generate("a regex of nearly a thousand millions", "", regex="((a{999}){999}){999}"),
    generate("a schema without an end", "", json_schema=ENDLESS),
    Bad("one word of ten megabytes", "/v1/classify", {"text": "x" * (10 << 20)}, ""),
]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_it_is_refused_and_the_next_is_answered(zoo: Process, bad: Bad) -> None:
    with closing(Client(zoo.client.base_url.port, seconds=30.0)) as client:
        response = client.ask(bad.raw(), bad.method)
        assert response.status == bad.status, client.content
        check_words(client.fault(), bad)
        assert client.num_opened == 1 or bad.status == 413
        assert client.ask(GOOD.raw()).status == 200


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: odd.name)
def test_what_only_looks_bad_is_answered(zoo: Process, odd: Bad) -> None:
    with closing(Client(zoo.client.base_url.port, seconds=30.0)) as client:
        assert client.ask(odd.raw()).status == 200, client.content
        assert client.num_opened == 1


def test_the_engine_has_not_been_started_anew(zoo: Process) -> None:
    assert zoo.metric("quartet_engine_restarts_total") == 0
    assert zoo.client.get("/ready").status_code == 200
