"""What a request says about generation, filled up from the checkpoint and our defaults, and checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from app.engine.protocol import Constraint
from app.engine.sampling_params import ParameterError, SamplingParams
from app.errors import InvalidRequest
from app.tasks.constraints import make_constraint
from model.generation_config import GenerationConfig

_PUBLISHED_ALWAYS = ("repetition_penalty", "no_repeat_ngram_size")
_PUBLISHED_WHEN_SAMPLING = ("temperature", "top_p", "top_k", "min_p")
_OURS = frozenset(SamplingParams.__struct_fields__) - {"max_tokens"}


@dataclass(frozen=True)
class GenerateOptions:
    """`params` go to the engine; stop strings and the number of texts per prompt are ours.

    `max_tokens` None takes the default, cut to the room there is; a number that does not fit is refused.
    `min_tokens` None takes the checkpoint's, cut to the limit. Stop strings wait for the request's own alone.
    """

    params: SamplingParams
    max_tokens: int | None = None
    min_tokens: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    priority: int = 0
    constraint: Constraint | None = None


def make_options(
    values: Mapping[str, Any], published: GenerationConfig, *, temperature: float, vocab_size: int
) -> GenerateOptions:
    """Options out of a request's `values` (None: left out) over the checkpoint's generation config over ours.

    `temperature` is the route's default. Raises InvalidRequest that names the field.
    """
    given = {name: value for name, value in values.items() if value is not None}
    n = given.get("n", 1)
    if given.get("best_of", n) != n:
        raise InvalidRequest("best_of other than n is not served yet", "best_of", "unsupported_parameter")
    fields = (
        {"temperature": temperature} | _published(published) | {k: given[k] for k in _OURS & given.keys()}
    )
    if "logit_bias" in fields:
        fields["logit_bias"] = {_token_id(key): float(bias) for key, bias in fields["logit_bias"].items()}
    if "stop_token_ids" in fields:
        fields["stop_token_ids"] = tuple(fields["stop_token_ids"])
    max_tokens = given.get("max_tokens")
    try:
        # The limit is filled in when the prompt's length is known; until then it only bounds min_tokens.
        limit = max_tokens or max(1, fields.get("min_tokens", 0))
        params = SamplingParams(**fields, max_tokens=limit)
        params.check_vocabulary(vocab_size)
    except ParameterError as error:
        raise InvalidRequest(str(error), error.param) from None
    return GenerateOptions(
        params=params,
        max_tokens=max_tokens,
        min_tokens=given.get("min_tokens"),
        n=n,
        stop=tuple(given.get("stop", ())),
        priority=given.get("priority", 0),
        constraint=make_constraint(given),
    )


def with_limits(params: SamplingParams, max_tokens: int, min_tokens: int) -> SamplingParams:
    """The same with other limits. Raises InvalidRequest where they cross."""
    try:
        return msgspec.structs.replace(params, max_tokens=max_tokens, min_tokens=min_tokens)
    except ParameterError as error:
        raise InvalidRequest(str(error), error.param) from None


def _published(config: GenerationConfig) -> dict[str, Any]:
    names = _PUBLISHED_ALWAYS + (_PUBLISHED_WHEN_SAMPLING if config.do_sample else ())
    values = {name: getattr(config, name) for name in names}
    values["forced_bos_token"] = config.forced_bos_token_id
    values["suppress_token_ids"] = config.suppressed_token_ids
    values["bad_words"] = config.longer_bad_words
    values["forced_eos_tokens"] = config.forced_eos_token_ids
    return {name: value for name, value in values.items() if value is not None}


def _token_id(key: str) -> int:
    if not key.isdecimal() or len(key) > 10:
        raise InvalidRequest(f"{key[:20]!r} is not a token id", "logit_bias")
    return int(key)
