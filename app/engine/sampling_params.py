"""How the next token of a sequence is chosen, and when the sequence ends: a frozen value, checked when made.

Token ids are checked against a vocabulary by `check_vocabulary`, since only the served model knows its size.
Knows no text: stop strings belong to the tasks.
"""

import math
from itertools import chain

import msgspec

from model.beam_search import EarlyStopping

MAX_LOGPROBS = 20
MAX_LOGIT_BIASES = 1024
MAX_STOP_TOKENS = 64
MAX_SUPPRESSED_TOKENS = 1024
MAX_BAD_WORDS = 1024
MAX_NGRAM_SIZE = 64
MAX_BEAMS = 64
# Below this the division of the logits could overflow, and nothing but the best token has any mass left.
GREEDY_BELOW = 1e-5


class ParameterError(ValueError):
    """A sampling parameter is out of range; `param` is its name and the message says what is allowed."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"{param} {message}")
        self.param = param


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One sequence's parameters. Raises `ParameterError` where one is out of range.

    `temperature` 0 is greedy; `top_k` 0 or -1, `top_p` 1 and `min_p` 0 are off, as are penalties of 1
    (repetition) and 0 (presence, frequency). `logprobs` n asks for the chosen token's log-probability and
    those of the n likeliest; `prompt_logprobs` asks the same of a decoder's prompt, from its second token on.
    `seed` None: the client of the engine chooses one at admission.
    `forced_bos_token` is what an encoder-decoder's output begins with (a language code, say): it counts as
    given, not as generated, and is not handed out. `suppress_token_ids` are never generated.

    Over all tokens of the decoder, prompt or start token included: no `no_repeat_ngram_size` tokens in a row
    come twice (0 is off), and none of `bad_words`, each of several tokens, is completed. The last token that
    `max_tokens` allows is one of `forced_eos_tokens`, where there are any and end tokens are not ignored.

    `num_beams` above 1 is beam search, which is greedy: the answer is the `num_return_sequences` best texts. What
    `length_penalty` and `early_stopping` mean is told in `model.beam_search`.
    """

    max_tokens: int = 256
    min_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logit_bias: dict[int, float] = {}
    forced_bos_token: int | None = None
    suppress_token_ids: tuple[int, ...] = ()
    no_repeat_ngram_size: int = 0
    bad_words: tuple[tuple[int, ...], ...] = ()
    forced_eos_tokens: tuple[int, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False

    def __post_init__(self) -> None:
        _check_integer("max_tokens", self.max_tokens, 1)
        _check_integer("min_tokens", self.min_tokens, 0)
        if self.min_tokens > self.max_tokens:
            raise ParameterError("min_tokens", f"must not be over max_tokens ({self.max_tokens})")
        _check_number("temperature", self.temperature, 0.0, 2.0)
        _check_integer("top_k", self.top_k, -1, 2**63 - 1)
        _check_number("top_p", self.top_p, 0.0, 1.0)
        if self.top_p == 0.0:
            raise ParameterError("top_p", "must be above 0")
        _check_number("min_p", self.min_p, 0.0, 1.0)
        _check_number("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        _check_number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _check_number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        if self.seed is not None:
            _check_integer("seed", self.seed, -(2**63), 2**63 - 1)
        _check_token_ids("stop_token_ids", self.stop_token_ids, MAX_STOP_TOKENS)
        if len(self.logit_bias) > MAX_LOGIT_BIASES:
            raise ParameterError("logit_bias", f"must not have more than {MAX_LOGIT_BIASES} entries")
        for token_id, bias in self.logit_bias.items():
            _check_integer("logit_bias", token_id, 0)
            _check_number("logit_bias", bias, -100.0, 100.0)
        if self.forced_bos_token is not None:
            _check_integer("forced_bos_token", self.forced_bos_token, 0)
        _check_token_ids("suppress_token_ids", self.suppress_token_ids, MAX_SUPPRESSED_TOKENS)
        _check_integer("no_repeat_ngram_size", self.no_repeat_ngram_size, 0, MAX_NGRAM_SIZE)
        if len(self.bad_words) > MAX_BAD_WORDS or any(len(word) < 2 for word in self.bad_words):
            raise ParameterError("bad_words", f"must be at most {MAX_BAD_WORDS} words of at least two tokens")
        for token_id in chain.from_iterable(self.bad_words):
            _check_integer("bad_words", token_id, 0)
        _check_token_ids("forced_eos_tokens", self.forced_eos_tokens, MAX_STOP_TOKENS)
        if self.logprobs is not None:
            _check_integer("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        if self.prompt_logprobs is not None:
            _check_integer("prompt_logprobs", self.prompt_logprobs, 0, MAX_LOGPROBS)
        self._check_beams()

    def _check_beams(self) -> None:
        _check_integer("num_beams", self.num_beams, 1, MAX_BEAMS)
        _check_integer("num_return_sequences", self.num_return_sequences, 1, self.num_beams)
        _check_number("length_penalty", self.length_penalty, -10.0, 10.0)
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise ParameterError("early_stopping", 'must be true, false or "never"')
        if self.num_beams > 1 and self.prompt_logprobs is not None:
            raise ParameterError("prompt_logprobs", "is not served together with num_beams above 1")
        if self.num_beams > 1 and not self.is_greedy:
            raise ParameterError("num_beams", "above 1 needs temperature 0")

    @property
    def is_greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    @property
    def has_penalties(self) -> bool:
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    def end_token_ids(self, eos_token_ids: tuple[int, ...]) -> tuple[int, ...]:
        """What ends the sequence, of a model that ends its own with `eos_token_ids`."""
        return self.stop_token_ids if self.ignore_eos else (*self.stop_token_ids, *eos_token_ids)

    def check_vocabulary(self, vocab_size: int) -> None:
        """Raises `ParameterError` where a token id is not below `vocab_size`."""
        forced = () if self.forced_bos_token is None else (self.forced_bos_token,)
        for param, token_ids in (
            ("logit_bias", self.logit_bias),
            ("stop_token_ids", self.stop_token_ids),
            ("suppress_token_ids", self.suppress_token_ids),
            ("forced_bos_token", forced),
            ("bad_words", [max(word) for word in self.bad_words]),
            ("forced_eos_tokens", self.forced_eos_tokens),
        ):
            if token_ids and max(token_ids) >= vocab_size:
                raise ParameterError(param, f"has token ids that are not below {vocab_size}")


def _check_integer(param: str, value: object, low: int, high: int | None = None) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ParameterError(param, "must be an integer")
    if value < low or (high is not None and value > high):
        raise ParameterError(
            param, f"must be at least {low}" if high is None else f"must be in {low}..{high}"
        )


def _check_token_ids(param: str, token_ids: tuple[int, ...], most: int) -> None:
    if len(token_ids) > most:
        raise ParameterError(param, f"must not have more than {most} entries")
    for token_id in token_ids:
        _check_integer(param, token_id, 0)


def _check_number(param: str, value: object, low: float, high: float) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ParameterError(param, "must be a finite number")
    if not low <= value <= high:
        raise ParameterError(param, f"must be between {low:g} and {high:g}")
