"""Settings: the only reader of the environment and of models.toml.

Flags win over `QUARTET_…` variables, those win over the file, the file wins over the defaults. What comes out is one
frozen object; components get the few fields they use, nobody stores the whole.
"""

import os
import re
from collections.abc import Callable, Mapping, MutableMapping
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from app.errors import ConfigError
from app.models_file import read_models_file
from app.otlp import OtlpEndpoint, standard_endpoint

PREFIX = "QUARTET_"
API_KEY = "QUARTET_API_KEY"
ZOO = ("minilm", "qa", "intent", "banking", "sentiment", "fill-mask", "translator", "writer")
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$"
HUB_PATTERN = r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?$"
"""`org/repo`, with a branch, tag or commit behind an @."""

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Quantization = Literal["none", "int8", "int4", "fp8"]
Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _split(value: Any) -> Any:
    return value.replace(",", " ").split() if isinstance(value, str) else value


Origin = Annotated[str, Field(pattern=r"^(\*|null|[a-z][a-z0-9+.-]*://[^/\s]+)$")]
Hosts = Annotated[tuple[str, ...], BeforeValidator(_split), Field(min_length=1)]
Origins = Annotated[tuple[Origin, ...], BeforeValidator(_split)]
"""A list, as the one before, or a text with blanks or commas between its parts."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Source(_Frozen):
    """Where a checkpoint or an adapter is: a folder, or a repository on the hub, which `with_folders` makes one."""

    name: Name
    path: Path | None = None
    hub: Annotated[str, Field(pattern=HUB_PATTERN)] | None = None
    tasks: tuple[str, ...] | None = None
    """What it is narrowed to; None: all that it can do."""
    prompts: Mapping[str, str] = Field(default_factory=dict)
    """Of its own, by name; each makes it do the task by that prompt."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.hub is None):
            raise ValueError(f"{self.name} needs either a path or a hub repository")
        return self

    @property
    def folder(self) -> Path:
        """Once `with_folders` has seen the settings."""
        assert self.path is not None
        return self.path


AnySource = TypeVar("AnySource", bound=_Source)


class ModelSettings(_Source):
    """One served checkpoint. `weight` is its share of the device's time, beside that of other models with work."""

    weight: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] = 1.0
    quantization: Quantization | None = None


class AdapterSettings(_Source):
    """A PEFT adapter that is served as a model of its own on top of `base`."""

    base: Name


class Settings(_Frozen):
    """Everything that can be set. Sizes are in bytes, lengths in tokens, times in seconds."""

    models: tuple[ModelSettings, ...] = ()
    adapters: tuple[AdapterSettings, ...] = ()
    default_models: Mapping[str, Name] = Field(default_factory=dict)
    """Task → the model that answers when a request names none."""
    prompts: Mapping[str, str] = Field(default_factory=dict)
    """By name, in place of the built-in ones."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Quantization = "none"
    kv_cache_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    kv_cache_memory: Positive | None = None
    kv_cache_page: Positive | None = None  # at least, for models to come
    max_model_len: Positive | None = None
    token_budget: Positive = 2048
    max_sequences: Positive = 256
    prefix_cache: bool = True
    target_step_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """How long steps may get by prompts, while others wait for them; 0: no matter. None: 100 on a CPU, 0 on CUDA."""
    speculation: bool = True
    deterministic: bool = False
    """The same bits in any batch; see docs/reliability.md for where."""
    cuda_graphs: bool = True
    """Decode steps are recorded when a model is loaded, and replayed. On a CPU there are none."""
    threads: Positive | None = None
    engine_niceness: Annotated[int, Field(ge=0, le=19)] = 5  # behind the process that answers clients

    max_queue_requests: Positive = 4096
    max_queue_tokens: Positive = 2_000_000
    max_queue_wait: Seconds = 30.0
    """The longest that a new request is expected to wait until something of it is computed."""
    max_connections: Positive = 8192
    head_timeout: Seconds = 30.0
    write_timeout: Seconds = 30.0
    """How long a client may take nothing of what is ready for it."""
    max_body_bytes: Positive = 16 * 1024 * 1024
    max_timeout: Seconds = 600.0
    body_timeout: Seconds = 30.0
    drain_timeout: Seconds = 30.0
    hang_timeout: Seconds = 30.0
    """How long the engine process may say nothing; longer in a step that was expected to take long."""
    start_timeout: Seconds = 1800.0
    """For loading all models."""
    recovery_timeout: Seconds = 120.0
    """How long requests wait for an engine that is being started again; then 503."""
    log_format: Literal["text", "json"] = "text"
    otlp_endpoint: OtlpEndpoint | None = None
    """Where traces go, if anywhere. None: as OpenTelemetry's own variables say."""

    api_key_file: Path | None = None
    rate_limit_requests: Positive | None = None
    """A minute for each key, as the next; without keys for all clients together."""
    rate_limit_tokens: Positive | None = None
    allowed_hosts: Hosts | None = None
    """None: the names of this machine while it listens there alone, else any."""
    cors_origins: Origins = ()
    log_prompts: bool = False
    model_root: Path | None = None
    """Models and adapters below may be loaded while the service runs."""
    cache_dir: Path | None = None
    """For what is fetched or compiled once and kept; None: each library's own place."""


_SERVER_FIELDS = frozenset(Settings.model_fields) - {"models", "adapters", "default_models", "prompts"}
_FOLDERS = {"HF_HOME": "huggingface", "TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
"""Where other libraries look for a folder of theirs, and what it is called below `cache_dir`."""


def load_settings(flags: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Settings:
    """Flags (None: not given; `model` and `adapter` as lists of NAME=… strings) over environment over file.

    Without any model the packaged zoo is served. Raises ConfigError with one line that says what to do.
    """
    environ = os.environ if environ is None else environ
    given = {name: value for name, value in flags.items() if value is not None and value != []}
    variables = _read_environment(environ)
    file = given.pop("config", None) or variables.pop("config", None)
    values = standard_endpoint(environ) | (read_models_file(Path(file), _SERVER_FIELDS) if file else {})
    for source, origin in ((variables, "the environment"), (given, "the command line")):
        models, adapters = source.pop("model", None), source.pop("adapter", None)
        if models is not None or adapters is not None:
            values["models"] = [_parse_model(text, origin) for text in models or []]
            values["adapters"] = [_parse_adapter(text, origin) for text in adapters or []]
        values |= source
    if not values.get("models"):
        if values.get("adapters"):
            raise ConfigError("an adapter needs its base: give --model NAME=PATH for it too")
        values |= zoo_models(_zoo_folder())
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_one_line(error)) from None
    _check_names(settings)
    return settings


def with_folders(settings: Settings, fetch: Callable[[str], Path]) -> Settings:
    """The same settings with a folder for each repository, as `fetch` gives it for `org/repo[@revision]`."""

    def placed(entry: AnySource) -> AnySource:
        return (
            entry if entry.hub is None else entry.model_copy(update={"path": fetch(entry.hub), "hub": None})
        )

    return settings.model_copy(
        update={
            "models": tuple(placed(one) for one in settings.models),
            "adapters": tuple(placed(one) for one in settings.adapters),
        }
    )


def read_api_key(environ: Mapping[str, str] | None = None) -> str | None:
    """What `quartet bench` proves itself with where no flag says it; no setting of a server."""
    return (os.environ if environ is None else environ).get(API_KEY) or None


def find_cache_dir(environ: Mapping[str, str] | None = None) -> Path | None:
    """What the environment says, for commands that have no other setting."""
    text = (os.environ if environ is None else environ).get(f"{PREFIX}CACHE_DIR")
    return Path(text) if text else None


def use_cache_dir(folder: Path, environ: MutableMapping[str, str] | None = None) -> None:
    """Has the libraries of this process and of those that it starts keep their files there.

    Comes before they are imported. A variable of theirs that is set already stays as it is.
    """
    environ = os.environ if environ is None else environ
    for name, below in _FOLDERS.items():
        environ.setdefault(name, str(folder.absolute() / below))


def use_large_pages(environ: MutableMapping[str, str] | None = None) -> None:
    """Has the processes that this one starts keep what is large in pages of 2 MiB, where the system lends them on
    request: by glibc's malloc, from its version 2.35 on. Tunables that are set already stay as they are."""
    (os.environ if environ is None else environ).setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")


def zoo_models(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The `models` and `adapters` of the packaged zoo: what lies in `folder` complete, in the zoo's order."""
    models, adapters = [], []
    for name in ZOO:
        path = folder / name
        if (path / "adapter_model.safetensors").is_file() and (path / "adapter_config.json").is_file():
            adapters.append({"name": name, "base": "minilm", "path": path})
        elif (path / "model.safetensors").is_file() and (path / "config.json").is_file():
            models.append({"name": name, "path": path})
    if not models:
        raise ConfigError(f"no checkpoint in {folder}: give one with --model NAME=PATH")
    return {"models": models, "adapters": adapters}


def _zoo_folder() -> Path:
    spec = find_spec("model")
    if spec is None or spec.origin is None:
        raise ConfigError("the packaged zoo is missing: give a checkpoint with --model NAME=PATH")
    return Path(spec.origin).parent / "zoo"


def _read_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """QUARTET_MODEL and QUARTET_ADAPTER hold several entries, parted by blanks or commas."""
    values: dict[str, Any] = {}
    known = _SERVER_FIELDS | {"config", "model", "adapter"}
    for key, text in environ.items():
        if not key.startswith(PREFIX) or key == API_KEY or text == "":
            continue
        name = key.removeprefix(PREFIX).lower()
        if name not in known:
            raise ConfigError(f"{key} is not a setting; see `quartet serve --help`")
        values[name] = text.replace(",", " ").split() if name in ("model", "adapter") else text
    return values


def _parse_model(text: str, origin: str) -> dict[str, Any]:
    name, equals, path = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"--model takes NAME=PATH, not {text!r} (from {origin})")
    return {"name": name} | _place(path)


def _parse_adapter(text: str, origin: str) -> dict[str, Any]:
    name, equals, rest = text.partition("=")
    base, colon, path = rest.partition(":")
    if not equals or not colon or not path:
        raise ConfigError(f"--adapter takes NAME=BASE:PATH, not {text!r} (from {origin})")
    return {"name": name, "base": base} | _place(path)


def _place(text: str) -> dict[str, str]:
    """A folder that is there is a folder, whatever it is called."""
    is_hub = not Path(text).is_dir() and re.match(HUB_PATTERN, text)
    return {"hub" if is_hub else "path": text}


def _check_names(settings: Settings) -> None:
    entries: list[ModelSettings | AdapterSettings] = [*settings.models, *settings.adapters]
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"the name {name!r} is given to two models")
    bases = {model.name for model in settings.models}
    for adapter in settings.adapters:
        if adapter.base not in bases:
            raise ConfigError(f"adapter {adapter.name!r}: its base {adapter.base!r} is not a served model")
    for entry in entries:
        if entry.path is not None and not entry.path.is_dir():
            raise ConfigError(f"model {entry.name!r}: {entry.path} is not a folder")
    for task, name in settings.default_models.items():
        if name not in names:
            raise ConfigError(f"the default of {task!r} is {name!r}, which is not a served model")


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"setting {where}: {first['msg']}"
