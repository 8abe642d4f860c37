"""From a request to its sequence, or to the reason why this engine can never serve it."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.engine.block_manager import num_blocks
from app.engine.protocol import EncodeRequest, GenerateRequest, served_name
from app.engine.rules import make_rules
from app.engine.sampling_params import ParameterError
from app.engine.sequence import BeamGroup, Sequence
from app.engine.token_counts import make_counts
from model.beam_search import BeamSearch, BeamSettings
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
    """What the cache and a step hold at most."""

    block_size: int
    num_blocks: int
    max_num_seqs: int


def make_sequence(
    request: GenerateRequest | EncodeRequest, served: Served, limits: Limits, arrival: float
) -> Sequence:
    """Raises RequestError where it can never be served. `arrival` is in seconds."""
    if isinstance(request, EncodeRequest):
        return _encoder_sequence(request, served, limits, arrival)
    return _decoder_sequence(request, served, limits, arrival)


def _encoder_sequence(request: EncodeRequest, served: Served, limits: Limits, arrival: float) -> Sequence:
    heads = HEADS_FOR.get(request.output)
    kinds = ("encoder", "encoder-decoder") if request.output == "class" else ("encoder",)
    if served.config.kind not in kinds or (heads is not None and served.config.head not in heads):
        raise RequestError(f"model {served_name(request.model)!r} has no output {request.output!r}")
    if not 0 < len(request.ids) <= served.max_model_len:
        raise RequestError(f"{len(request.ids)} tokens, but the model takes 1 to {served.max_model_len}")
    if any(not 0 <= token_id < served.config.vocab_size for token_id in request.candidates):
        raise RequestError(f"candidates must be token ids below {served.config.vocab_size}")
    echo: list[int] = []
    if served.config.kind == "encoder-decoder":
        echo = _echo(request.ids, served.config)
        _check_room(len(echo), len(request.ids), 1, limits)
    return Sequence(
        request=request,
        model=served.model,
        adapter=served.adapter,
        arrival=arrival,
        source_ids=request.ids,
        token_ids=echo,
        num_prompt_tokens=len(echo),
        alone_until=request.alone_until,
    )


def _decoder_sequence(request: GenerateRequest, served: Served, limits: Limits, arrival: float) -> Sequence:
    config, limit = served.config, served.max_model_len
    if config.head != "lm":
        raise RequestError(f"model {served_name(request.model)!r} generates nothing")
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
    tokens += request.target_ids
    max_tokens = min(request.params.max_tokens, limit - len(tokens))
    if max_tokens < 1:
        raise RequestError(f"{len(tokens)} prompt tokens leave no room in a context of {limit}")
    _check_room(len(tokens) + max_tokens, len(source), request.params.num_beams, limits)
    if len(request.said) >= max_tokens:
        raise RequestError(f"{len(request.said)} tokens are said, of {max_tokens} at most")
    group = _beam_group(request, served, max_tokens, limits)
    sequence = Sequence(
        request=request,
        model=served.model,
        adapter=served.adapter,
        arrival=arrival,
        source_ids=source,
        token_ids=[*tokens, *request.said],
        num_prompt_tokens=len(tokens),
        max_tokens=max_tokens,
        eos_token_ids=config.eos_token_ids,
        alone_until=request.alone_until,
        rules=make_rules(request.params, max_tokens),
        counts=make_counts(request.params, len(tokens)),
        group=group,
    )
    if group is not None:
        group.members.append(sequence)
    return sequence


def _check_room(num_tokens: int, num_source: int, num_beams: int, limits: Limits) -> None:
    """Raises RequestError where not even the empty cache could hold a sequence, or beams that share no block."""
    needed = num_blocks(num_tokens, limits.block_size) + num_blocks(num_source, limits.block_size)
    if num_beams > 1:
        needed = num_beams * (needed + 1)  # one each to copy into
    if needed > limits.num_blocks:
        raise RequestError(
            f"the cache holds {limits.num_blocks * limits.block_size} tokens, which is too few for this"
        )


def _beam_group(
    request: GenerateRequest, served: Served, max_tokens: int, limits: Limits
) -> BeamGroup | None:
    params, config = request.params, served.config
    if params.num_beams == 1:
        return None
    settings = BeamSettings(
        num_beams=params.num_beams,
        max_tokens=max_tokens,
        end_token_ids=params.end_token_ids(config.eos_token_ids),
        length_penalty=params.length_penalty,
        early_stopping=params.early_stopping,
        num_given=0 if params.forced_bos_token is None else 1,
    )
    if params.num_beams > limits.max_num_seqs:
        raise RequestError(
            f"{params.num_beams} beams, but a step takes at most {limits.max_num_seqs} sequences"
        )
    if settings.num_candidates > config.vocab_size:
        raise RequestError(f"{params.num_beams} beams are too many for {config.vocab_size} tokens")
    return BeamGroup(BeamSearch(settings))


def _echo(ids: list[int], config: TransformerConfig) -> list[int]:
    """What the decoder reads to classify a text: the text one place later, to the last end token's place."""
    ends = [place for place, token_id in enumerate(ids) if token_id in config.eos_token_ids]
    if not ends:
        raise RequestError("a text to classify must hold an end token")
    return [config.decoder_start_token_id or 0, *ids][: ends[-1] + 1]
