"""What was asked of `quartet bench`, as a whole that can be done."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from app.bench.connection import Site
from app.bench.routes import ROUTES, Body, Route
from app.bench.workload import Range, Wanted, read_prompts, read_trace
from app.errors import ConfigError

_REQUESTS, _CONCURRENCY, _OUTPUT_TOKENS = 100, (8,), (16, 128)
EXTRA = "pip install 'matplotlib>=3.9' 'tqdm>=4.66'"


@dataclass(frozen=True)
class Options:
    """The flags, by name; None where one was left out. Raises ConfigError where two do not go together."""

    url: Site
    route: str
    model: str | None
    api_key: str | None
    extra: Body
    stream: bool
    ignore_eos: bool
    insecure: bool
    concurrency: tuple[int, ...] | None
    rate: tuple[float, ...] | None
    arrivals: str | None
    requests: int | None
    duration: float | None
    warmup: int
    timeout: float
    seed: int
    prompt_tokens: Range | None
    output_tokens: Range | None
    prompts: Path | None
    trace: Path | None
    slo: dict[str, float]
    json_file: Path | None
    plot: Path | None

    def __post_init__(self) -> None:
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise ConfigError("--api-key: has signs that a header cannot have")
        if self.ignore_eos and not self.kind.writes:
            raise ConfigError(f"--ignore-eos: {self.route} writes no text")
        if self.output_tokens is not None and not self.kind.writes:
            raise ConfigError(f"--output-tokens: {self.route} writes no text")
        if self.arrivals is not None and self.rate is None:
            raise ConfigError("--arrivals: goes with --rate")
        if "stream" in self.extra:
            raise ConfigError("--extra: whether to stream is told by --stream and --no-stream")
        if self.prompts is not None and self.prompt_tokens is not None:
            raise ConfigError("--prompt-tokens: the prompts of --prompts have lengths of their own")
        if not self.is_streamed and (timed := sorted({"ttft", "itl", "tpot"} & set(self.slo))):
            raise ConfigError(f"--slo: {timed[0]} can be told of streams only")
        for option, path in (("--json", self.json_file), ("--plot", self.plot)):
            if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
                raise ConfigError(f"{option}: {path} cannot be written: no such folder, or it is one")
        if self.plot is not None and find_spec("matplotlib") is None:
            raise ConfigError(f"--plot: matplotlib is needed and not installed: {EXTRA}")

    @property
    def kind(self) -> Route:
        """What is asked for."""
        return ROUTES[self.route]

    @property
    def is_streamed(self) -> bool:
        """Whether answers come in pieces."""
        return self.stream and self.kind.writes

    @property
    def drawn_prompt_tokens(self) -> Range:
        """The bounds of synthetic prompts."""
        return self.prompt_tokens or self.kind.prompt_tokens

    @property
    def drawn_output_tokens(self) -> Range | None:
        """None where an answer has no wanted length: it writes no text, or ends by itself unless told."""
        if self.output_tokens is None and self.route in ("translate", "summarize"):
            return None
        return (self.output_tokens or _OUTPUT_TOKENS) if self.kind.writes else None

    def lines(self) -> list[Wanted]:
        """The user's prompts or trace; none where prompts are synthetic. Raises ConfigError."""
        if self.prompts is not None:
            return read_prompts(self.prompts)
        return [] if self.trace is None else read_trace(self.trace)

    def levels(self, lines: list[Wanted]) -> list[tuple[str, float | None]]:
        """What kind of load, and how much; a trace with moments brings its own, if nothing else is wanted."""
        if self.rate is not None:
            return [("rate", rate) for rate in self.rate]
        if self.concurrency is None and lines and lines[0].at is not None:
            return [("trace", None)]
        return [("concurrency", count) for count in self.concurrency or _CONCURRENCY]

    @property
    def num_requests(self) -> int | None:
        """At each level; None: as many as the time allows."""
        return _REQUESTS if self.requests is None and self.duration is None else self.requests

    def body(self, model: str | None, prompt: str, output_tokens: int | None) -> Body:
        """Of a request."""
        fields: Body = {} if model is None else {"model": model}
        fields |= self.kind.body(prompt, output_tokens)
        if self.is_streamed:
            fields |= self.kind.streaming()
        if self.ignore_eos:
            fields["ignore_eos"] = True
        return fields | self.extra

    def told(self) -> dict[str, Any]:
        """For the record: all but the key."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "api_key"}
        for name in ("url", "prompts", "trace", "json_file", "plot"):
            fields[name] = None if fields[name] is None else str(fields[name])
        return fields | {
            "prompt_tokens": self.drawn_prompt_tokens,
            "output_tokens": self.drawn_output_tokens,
        }
