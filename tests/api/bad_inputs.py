"""Requests that are wrong in one way each: what is sent, and what the refusal says. Native routes, and whole bodies."""

import json
from dataclasses import dataclass, field
from typing import Any

MIB = 1 << 20
"""The limit of a body in these tests."""
LONG = "x" * 900_000
MANY = 100_000


@dataclass(frozen=True)
class Bad:
    """`body` is sent as JSON, unless it is bytes; the refusal's message or param has `names` in it."""

    name: str
    path: str
    body: Any
    names: str
    status: int = 400
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})

    def content(self) -> bytes:
        """The bytes of the body."""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()

    def raw(self) -> bytes:
        """The whole request."""
        content = self.content()
        headers = {"Host": "localhost", "Content-Length": str(len(content))} | self.headers
        lines = [
            f"{self.method} {self.path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


GENERATE = {"prompt": "Hi", "max_tokens": 2}
TRANSLATE = {"text": "Hi", "target": "de"}


def generate(name: str, names: str, **fields: Any) -> Bad:
    return Bad(f"generate: {name}", "/v1/generate", GENERATE | fields, names)


def literal(name: str, path: str, body: bytes, names: str) -> Bad:
    return Bad(name, path, body, names)


NATIVE = [
    generate("a field of another route", "text", text="Hi"),
    generate("a field in the wrong case", "Max_Tokens", Max_Tokens=4),
    generate("a field with an empty name", "unknown parameter", **{"": 1}),
    generate("an object for a text", "prompt", prompt={"text": "Hi"}),
    generate("a nested list of texts", "prompt", prompt=[["Hi"]]),
    generate("a hundred thousand texts", "prompt", prompt=["a"] * MANY),
    generate("a text of nearly a megabyte", "prompt", prompt=LONG),
    generate("a huge text among the stops", "stop", stop=LONG),
    generate("a hundred thousand stops", "stop", stop=["a"] * MANY),
    generate("an empty stop", "stop", stop=""),
    generate("stops in a list in a list", "stop", stop=[["a"]]),
    generate("a hundred thousand stop tokens", "stop_token_ids", stop_token_ids=[5] * MANY),
    generate("a negative stop token", "stop_token_ids", stop_token_ids=[-1]),
    generate("a stop token that is true", "stop_token_ids", stop_token_ids=[True]),
    generate("a hundred thousand biases", "logit_bias", logit_bias={str(i): 1 for i in range(50_000)}),
    generate("biases in a list", "logit_bias", logit_bias=[1, 2]),
    generate("a bias that is no number", "logit_bias", logit_bias={"5": "much"}),
    generate("a bias of a negative token", "logit_bias", logit_bias={"-5": 1}),
    generate("a negative limit", "max_tokens", max_tokens=-1),
    generate("a limit as an object", "max_tokens", max_tokens={"value": 4}),
    generate("a negative minimum", "min_tokens", min_tokens=-1),
    generate("a minimum over the limit", "min_tokens", min_tokens=3),
    generate("too hot", "temperature", temperature=2.1),
    generate("a share of more than all", "top_p", top_p=1.1),
    generate("a negative share", "min_p", min_p=-0.1),
    generate("a negative seed beyond 64 bits", "seed", seed=-(2**70)),
    generate("half a seed", "seed", seed=0.5),
    generate("no texts", "n", n=0),
    generate("minus one text", "n", n=-1),
    generate("best of none", "best_of", best_of=0),
    generate("negative log-probabilities", "logprobs", logprobs=-1),
    generate("a switch where a number is meant", "prompt_logprobs", prompt_logprobs=True),
    generate("a penalty far out of range", "presence_penalty", presence_penalty=1e6),
    generate("a frequency penalty as a text", "frequency_penalty", frequency_penalty="1"),
    generate("a penalty below nought", "repetition_penalty", repetition_penalty=-1),
    generate("a priority below the least", "priority", priority=-11),
    generate("a timeout in words", "timeout", timeout="soon"),
    generate("a negative timeout", "timeout", timeout=-1),
    generate("a stream that is a number", "stream", stream=1),
    generate("no name for the model", "model", model=5),
    generate("a schema that is a list", "json_schema", json_schema=[]),
    generate("two constraints at once", "choice", regex="a", choice=["a"]),
    generate("a constraint and beams", "regex", regex="a", num_beams=2),
    generate("a hundred thousand choices", "choice", choice=["a"] * MANY),
    generate("beams and a draw", "num_beams", num_beams=4, temperature=1),
    generate("a language for a decoder", "forced_bos_token", forced_bos_token=-1),
    Bad(
        "translate: the same target twice in a list",
        "/v1/translate",
        TRANSLATE | {"target": ["de"]},
        "target",
    ),
    Bad("translate: no language", "/v1/translate", TRANSLATE | {"target": ""}, "target"),
    Bad("translate: a prompt for a text", "/v1/translate", {"prompt": "Hi", "target": "de"}, "text"),
    Bad(
        "translate: a switch as a text",
        "/v1/translate",
        TRANSLATE | {"split_sentences": "no"},
        "split_sentences",
    ),
    Bad(
        "translate: a stream of lists",
        "/v1/translate",
        TRANSLATE | {"text": ["a", "b"], "stream": True},
        "stream",
    ),
    Bad("summarize: no text", "/v1/summarize", {}, "text"),
    Bad("summarize: an unknown field", "/v1/summarize", {"text": "Hi", "length": 3}, "length"),
    Bad("classify: no text among texts", "/v1/classify", {"text": ["a", None]}, "text"),
    Bad("classify: nothing to tell of all labels", "/v1/classify", {"text": "a", "top_k": -3}, "top_k"),
    Bad("classify: an unknown field", "/v1/classify", {"text": "a", "threshold": 0.5}, "threshold"),
    Bad("classify: over the context", "/v1/classify", {"text": "x" * 63}, "text"),
    Bad(
        "classify: a hundred thousand labels", "/v1/classify", {"text": "a", "labels": ["b"] * MANY}, "labels"
    ),
    Bad("qa: both ways to ask", "/v1/qa", {"question": "a", "context": "b", "inputs": []}, "inputs"),
    Bad("qa: neither way", "/v1/qa", {}, "question"),
    Bad(
        "qa: an unknown field in a pair",
        "/v1/qa",
        {"inputs": [{"question": "a", "context": "b", "id": 1}]},
        "inputs",
    ),
    Bad(
        "qa: windows that share all",
        "/v1/qa",
        {"question": "a", "context": "b" * 99, "doc_stride": 60},
        "doc_stride",
    ),
    Bad("qa: no answers", "/v1/qa", {"question": "a", "context": "b", "top_k": 0}, "top_k"),
    Bad(
        "qa: an answer of no length",
        "/v1/qa",
        {"question": "a", "context": "b", "max_answer_tokens": 0},
        "max_answer",
    ),
    Bad(
        "ner: an unknown field",
        "/v1/ner",
        {"text": "a", "aggregation_strategy": "max"},
        "aggregation_strategy",
    ),
    Bad("ner: labels that are numbers", "/v1/ner", {"text": "a", "ignore_labels": [0]}, "ignore_labels"),
    Bad("fill-mask: two masks", "/v1/fill-mask", {"text": "[MASK] [MASK]"}, "text"),
    Bad("fill-mask: one text without a mask", "/v1/fill-mask", {"text": ["[MASK]", "a"]}, "text"),
    Bad("fill-mask: more than there may be", "/v1/fill-mask", {"text": "[MASK]", "top_k": 1001}, "top_k"),
    Bad("rerank: an empty query", "/v1/rerank", {"query": None, "documents": ["a"]}, "query"),
    Bad(
        "rerank: a hundred thousand texts",
        "/v1/rerank",
        {"query": "a", "documents": ["b"] * MANY},
        "documents",
    ),
    Bad(
        "rerank: documents with more to them",
        "/v1/rerank",
        {"query": "a", "documents": [{"text": "b", "id": 1}]},
        "doc",
    ),
    Bad("rerank: an unknown field", "/v1/rerank", {"query": "a", "documents": ["b"], "top_k": 1}, "top_k"),
    Bad("tokenize: an unknown field", "/v1/tokenize", {"text": "a", "truncate": True}, "truncate"),
    Bad("detokenize: half a token", "/v1/detokenize", {"tokens": [1.5]}, "tokens"),
    Bad("detokenize: texts", "/v1/detokenize", {"tokens": ["Hello"]}, "tokens"),
    Bad(
        "an unknown model",
        "/v1/rerank",
        {"query": "a", "documents": ["b"], "model": "x" * 5000},
        "model",
        404,
    ),
    Bad("a model that cannot", "/v1/qa", {"question": "a", "context": "b", "model": "writer"}, "model"),
]
FAMILIES = {
    "/v1/completions": "prompt",
    "/v1/chat/completions": "messages",
    "/pipeline/fill-mask": "inputs",
    "/translate": "q",
    "/v1/embeddings": "input",
}
"""Route → its main field, for what is wrong with a body as a whole."""
WHOLE_BODIES = [
    bad
    for path, name in FAMILIES.items()
    for bad in (
        literal(f"{path}: NaN", path, b'{"%s": NaN}' % name.encode(), name),
        literal(f"{path}: an infinite exponent", path, b'{"%s": 1e9999}' % name.encode(), name),
        literal(f"{path}: a lone surrogate", path, b'{"%s": "a\\udc00"}' % name.encode(), name),
        literal(f"{path}: bytes that are no UTF-8", path, b'{"%s": "\xc3\x28"}' % name.encode(), "UTF-8"),
        literal(
            f"{path}: nested 200 deep",
            path,
            b'{"%s": %s1%s}' % (name.encode(), b"[" * 200, b"]" * 200),
            "128",
        ),
        literal(
            f"{path}: a wrong value behind a right one",
            path,
            b'{"%s": "a", "%s": 5}' % ((name.encode(),) * 2),
            name,
        ),
        literal(f"{path}: JSON that stops", path, b'{"%s": "a' % name.encode(), "JSON"),
        literal(f"{path}: two values", path, b'{"%s": "a"} {}' % name.encode(), "JSON"),
        Bad(f"{path}: three megabytes of text", path, {name: "x" * (3 * MIB)}, "limit", 413),
        Bad(f"{path}: no Content-Type", path, {name: "a"}, "Content-Type", 415, headers={}),
        Bad(
            f"{path}: XML",
            path,
            b"<q>a</q>",
            "Content-Type",
            415,
            headers={"Content-Type": "application/xml"},
        ),
        Bad(f"{path}: the wrong method", path, b"", "DELETE", 405, "DELETE"),
    )
]
