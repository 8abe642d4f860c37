"""What may be asked for: OpenAI's routes, which other servers have too, and Quartet's own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]

_QUERY_WORDS = 6


@dataclass(frozen=True)
class Route:
    """`fill` makes the body's task fields of a prompt; `task` is what Quartet calls what a model must be able to do."""

    name: str
    path: str
    task: str
    fill: Callable[[str], Body]
    writes: bool = False
    """Whether the answer is a text of a wanted length, which can be streamed."""
    is_openai: bool = False
    prompt_tokens: tuple[int, int] = (16, 128)
    """The lengths of synthetic prompts where none are given."""

    def body(self, prompt: str, output_tokens: int | None) -> Body:
        """All but the model and what the user adds."""
        fields = self.fill(prompt)
        if self.writes:
            fields["temperature"] = 0
            if output_tokens is not None:
                fields["max_tokens"] = output_tokens
        return fields

    def streaming(self) -> Body:
        """The fields that ask for a stream that tells its tokens at the end, as Quartet's own always do."""
        wanted: Body = {"stream_options": {"include_usage": True}} if self.is_openai else {}
        return {"stream": True} | wanted


def _chat(prompt: str) -> Body:
    return {"messages": [{"role": "user", "content": prompt}]}


def _query(prompt: str) -> Body:
    words = prompt.split(" ")
    return {"query": " ".join(words[:_QUERY_WORDS]), "documents": [" ".join(words[_QUERY_WORDS:]) or prompt]}


def _all(*routes: Route) -> Mapping[str, Route]:
    return {route.name: route for route in routes}


_LONG = (32, 256)
ROUTES = _all(
    Route("completions", "/v1/completions", "generate", lambda text: {"prompt": text}, True, True, _LONG),
    Route("chat", "/v1/chat/completions", "chat", _chat, True, True, _LONG),
    Route("embeddings", "/v1/embeddings", "embed", lambda text: {"input": text}, is_openai=True),
    Route("generate", "/v1/generate", "generate", lambda text: {"prompt": text}, True, False, _LONG),
    Route("translate", "/v1/translate", "translate", lambda text: {"text": text, "target": "de"}, True),
    Route("summarize", "/v1/summarize", "summarize", lambda text: {"text": text}, True, False, _LONG),
    Route("classify", "/v1/classify", "classify", lambda text: {"text": text}),
    Route("qa", "/v1/qa", "qa", lambda text: {"question": "What is it about?", "context": text}),
    Route("ner", "/v1/ner", "ner", lambda text: {"text": text}),
    Route(
        "fill-mask",
        "/v1/fill-mask",
        "fill-mask",
        lambda text: {"text": text if "[MASK]" in text or "<mask>" in text else f"{text} [MASK]"},
    ),
    Route("rerank", "/v1/rerank", "rerank", _query),
)
