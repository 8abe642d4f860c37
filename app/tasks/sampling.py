"""What a request says about generation, filled up from the checkpoint and our defaults, and checked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from app.engine.protocol import Constraint
from app.engine.sampling_params import ParameterError, SamplingParams
from app.errors import InvalidRequest, PermissionDenied
from app.security import may_hurry
from app.tasks.constraints import make_constraint
from model.generation_config import GenerationConfig

_PUBLISHED_ALWAYS = ("repetition_penalty", "no_repeat_ngram_size")
_PUBLISHED_WHEN_SAMPLING = ("temperature", "top_p", "top_k", "min_p")
_PUBLISHED_WHEN_SEARCHING = ("num_beams", "length_penalty", "early_stopping")
_OURS = frozenset(SamplingParams.__struct_fields__) - {"max_tokens", "num_return_sequences"}
MAX_SEQUENCES = 64
"""Texts times beams of one prompt."""


@dataclass(frozen=True)
class GenerateOptions:
    """`params` go to the engine; stop strings and the number of texts per prompt are ours.

    `max_tokens` None takes the default, cut to the room there is; a number that does not fit is refused.
    `min_tokens` None takes the checkpoint's, cut to the limit. Stop strings wait for the request's own alone.
    With beams the `n` texts of a prompt come out of one search, otherwise they are the likeliest of `best_of`
    sequences; `hides_logprobs` says that only this ranking asked for log-probabilities. A decoder's text that
    `continues_prompt` may begin with a blank which, at the beginning of a text, its tokenizer drops.
    """

    params: SamplingParams
    max_tokens: int | None = None
    min_tokens: int | None = None
    n: int = 1
    best_of: int = 1
    hides_logprobs: bool = False
    stop: tuple[str, ...] = ()
    priority: int = 0
    constraint: Constraint | None = None
    continues_prompt: bool = True

    @property
    def num_sequences(self) -> int:
        """How many sequences a prompt is handed to the engine as."""
        return max(self.n, self.best_of) if self.params.num_beams == 1 else 1


def make_options(
    values: Mapping[str, Any], published: GenerationConfig, *, temperature: float, vocab_size: int
) -> GenerateOptions:
    """Options out of a request's `values` (None: left out) over the checkpoint's generation config over ours.

    `temperature` is the route's default. Raises InvalidRequest, or PermissionDenied for a priority above 0 without the
    scope for it, that names the field.
    """
    given = {name: value for name, value in values.items() if value is not None}
    if given.get("priority", 0) > 0 and not may_hurry.get():
        raise PermissionDenied("a priority above 0 needs a key with the scope 'admin'", param="priority")
    n = given.get("n", 1)
    best_of = given.get("best_of", n)
    fields = {"temperature": temperature} | _published(published)
    if given.get("num_beams", 1) > 1:
        fields["temperature"] = 0.0  # who asks for beams and for no temperature wants no draw
    fields |= {k: given[k] for k in _OURS & given.keys()}
    constraint = make_constraint(given)
    if fields["temperature"] == 0.0 and constraint is None and "prompt_logprobs" not in given:
        fields = _searching(published) | fields
    if best_of != n:
        _check_best_of(n, best_of, fields.get("num_beams", 1), is_stream=given.get("stream") is True)
        fields = {"logprobs": 0} | fields
    if "logit_bias" in fields:
        fields["logit_bias"] = {_token_id(key): float(bias) for key, bias in fields["logit_bias"].items()}
    if "stop_token_ids" in fields:
        fields["stop_token_ids"] = tuple(fields["stop_token_ids"])
    max_tokens = given.get("max_tokens")
    try:
        # The limit is filled in when the prompt's length is known; until then it only bounds min_tokens.
        limit = max_tokens or max(1, fields.get("min_tokens", 0))
        params = SamplingParams(**fields, max_tokens=limit)
        if params.num_beams > 1:
            params = msgspec.structs.replace(params, num_return_sequences=_best_of_beams(n, params.num_beams))
        params.check_vocabulary(vocab_size)
    except ParameterError as error:
        raise InvalidRequest(str(error), error.param) from None
    return GenerateOptions(
        params=params,
        max_tokens=max_tokens,
        min_tokens=given.get("min_tokens"),
        n=n,
        best_of=best_of,
        hides_logprobs="logprobs" not in given,
        stop=tuple(given.get("stop", ())),
        priority=given.get("priority", 0),
        constraint=constraint,
    )


def _check_best_of(n: int, best_of: int, num_beams: int, *, is_stream: bool) -> None:
    if best_of < n:
        raise InvalidRequest(f"best_of must not be under n ({n})", "best_of")
    if num_beams > 1:
        raise InvalidRequest("best_of is for sampled texts: a beam search ranks its own", "best_of")
    if is_stream:
        raise InvalidRequest("which of best_of texts are the best shows at their end: no stream", "best_of")
    if n * best_of > MAX_SEQUENCES:
        raise InvalidRequest(f"n times best_of must not be over {MAX_SEQUENCES}", "best_of")


def _best_of_beams(n: int, num_beams: int) -> int:
    if n > num_beams:
        raise InvalidRequest(f"n must not be over num_beams ({num_beams})", "n")
    if n * num_beams > MAX_SEQUENCES:
        raise InvalidRequest(f"n times num_beams must not be over {MAX_SEQUENCES}", "num_beams")
    return n


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


def _searching(config: GenerationConfig) -> dict[str, Any]:
    """The published beams, for who draws nothing. Groups of beams that must differ are not served."""
    return {name: getattr(config, name) for name in _PUBLISHED_WHEN_SEARCHING}


def _token_id(key: str) -> int:
    if not key.isdecimal() or len(key) > 10:
        raise InvalidRequest(f"{key[:20]!r} is not a token id", "logit_bias")
    return int(key)
