"""From a request to its sequence, or to the reason why this engine can never serve it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from app.engine.block_manager import num_blocks
from app.engine.protocol import EncodeRequest, GenerateRequest
from app.engine.rules import make_rules
from app.engine.sampling_params import ParameterError
from app.engine.sequence import Sequence
from model.config import TransformerConfig

HEADS_FOR: Mapping[str, tuple[str, ...]] = {
    "class": ("sequence-class",),
    "token-class": ("token-class",),
    "span": ("span",),
    "mask": ("masked-lm", "pretraining"),
    "next-sentence": ("next-sentence", "pretraining"),
}
"""Which heads can give an output; what is not listed needs none."""


class RequestError(ValueError):
    """A request that this engine can never serve; the message is for the client."""


@dataclass(frozen=True)
class Served:
    """A served name: the model that computes it, and the adapter it goes through."""

    model: str
    adapter: str | None
    config: TransformerConfig
    max_model_len: int


@dataclass(frozen=True)
class Limits:
    """What the cache holds at most."""

    block_size: int
    num_blocks: int


def make_sequence(request: GenerateRequest | EncodeRequest, served: Served, limits: Limits) -> Sequence:
    """Raises RequestError where it can never be served."""
    if isinstance(request, EncodeRequest):
        return _encoder_sequence(request, served, limits)
    return _decoder_sequence(request, served, limits)


def _encoder_sequence(request: EncodeRequest, served: Served, limits: Limits) -> Sequence:
    heads = HEADS_FOR.get(request.output)
    kinds = ("encoder", "encoder-decoder") if request.output == "class" else ("encoder",)
    if served.config.kind not in kinds or (heads is not None and served.config.head not in heads):
        raise RequestError(f"model {request.model!r} has no output {request.output!r}")
    if not 0 < len(request.ids) <= served.max_model_len:
        raise RequestError(f"{len(request.ids)} tokens, but the model takes 1 to {served.max_model_len}")
    echo: list[int] = []
    if served.config.kind == "encoder-decoder":
        echo = _echo(request.ids, served.config)
        _check_room(len(echo), len(request.ids), limits)
    return Sequence(
        request=request,
        model=served.model,
        adapter=served.adapter,
        arrival=time.perf_counter(),
        source_ids=request.ids,
        token_ids=echo,
        num_prompt_tokens=len(echo),
    )


def _decoder_sequence(request: GenerateRequest, served: Served, limits: Limits) -> Sequence:
    config, limit = served.config, served.max_model_len
    if config.head != "lm":
        raise RequestError(f"model {request.model!r} generates nothing")
    try:
        request.params.check_vocabulary(config.vocab_size)
    except ParameterError as fault:
        raise RequestError(str(fault)) from None
    if not 0 < len(request.prompt_ids) <= limit:
        raise RequestError(f"{len(request.prompt_ids)} prompt tokens, but the model takes 1 to {limit}")
    source: list[int] = []
    tokens = list(request.prompt_ids)
    forced = [] if request.params.forced_bos_token is None else [request.params.forced_bos_token]
    if config.kind == "encoder-decoder":
        source, tokens = tokens, [config.decoder_start_token_id or 0, *forced]
    elif forced:
        raise RequestError("forced_bos_token is for encoder-decoders; a decoder's prompt can end with it")
    max_tokens = min(request.params.max_tokens, limit - len(tokens))
    if max_tokens < 1:
        raise RequestError(f"{len(tokens)} prompt tokens leave no room in a context of {limit}")
    _check_room(len(tokens) + max_tokens, len(source), limits)
    return Sequence(
        request=request,
        model=served.model,
        adapter=served.adapter,
        arrival=time.perf_counter(),
        source_ids=source,
        token_ids=tokens,
        num_prompt_tokens=len(tokens),
        max_tokens=max_tokens,
        rules=make_rules(request.params, max_tokens),
    )


def _check_room(num_tokens: int, num_source: int, limits: Limits) -> None:
    """Raises RequestError where not even the empty cache could hold a sequence."""
    if (
        num_blocks(num_tokens, limits.block_size) + num_blocks(num_source, limits.block_size)
        > limits.num_blocks
    ):
        raise RequestError(
            f"the cache holds {limits.num_blocks * limits.block_size} tokens, which is too few for this"
        )


def _echo(ids: list[int], config: TransformerConfig) -> list[int]:
    """What the decoder reads to classify a text: the text one place later, to the last end token's place."""
    ends = [place for place, token_id in enumerate(ids) if token_id in config.eos_token_ids]
    if not ends:
        raise RequestError("a text to classify must hold an end token")
    return [config.decoder_start_token_id or 0, *ids][: ends[-1] + 1]
