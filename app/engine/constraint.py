"""What a sequence's text must be, as the tokens that may follow: llguidance behind a small surface. No tensors.

A `Vocabulary` is made once for a model, a `Grammar` once for a constraint; each sequence has a `Matcher`, which stays
with it through preemption and follows its tokens one by one.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

from app.engine.grammar import DEAD_END, ConstraintError, fault_line, limits, source
from app.engine.protocol import Constraint, Failed, FinishReason, Tokens
from model.config import CheckpointError
from model.tokenization import Spelling, Tokenizer

MAX_SHARED_TOKENS = 10_000
"""Fewer than can fill a lexer by their number alone: a grammar in use for weeks must not come to its limits."""

Bits = npt.NDArray[np.uint32]
"""One bit for each token id, the lowest bit of the first word first."""


@dataclass(frozen=True)
class Vocabulary:
    """A model's `size` tokens as llguidance has them; to those it adds an end token of its own, with the id `size`."""

    tokenizer: LLTokenizer
    size: int
    drops_first_blank: bool

    @classmethod
    def of(cls, spelling: Spelling, size: int) -> "Vocabulary":
        """Ids without a token, up to the width `size` of the model's logits, are never allowed."""
        spelled = spelling.tokens[:size] + [b""] * (size - len(spelling.tokens))
        return cls(LLTokenizer(TokenizerWrapper(_Tokens(spelled))), size, spelling.drops_first_blank)

    @classmethod
    def read(cls, folder: Path, size: int) -> "Vocabulary":
        """A checkpoint's. Raises ConstraintError where its tokenizer does not tell what its tokens stand for."""
        try:
            return cls.of(Tokenizer.from_folder(folder).spelling(), size)
        except (CheckpointError, ValueError) as fault:
            raise ConstraintError(f"is not served by this model: {fault}") from None


class Grammar:
    """A compiled constraint, and what its sequences share: what is known of it grows with each of their tokens.

    `fault` is set once one of its masks did not end: then none is computed any more. `has_met_limit` says that one
    of its sequences was at a limit, which the others may share.
    """

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.fault: str | None = None
        self.has_met_limit = False
        self.num_tokens = 0
        self._start = matcher

    @property
    def is_spent(self) -> bool:
        """Better compiled anew for the sequences to come."""
        return self.has_met_limit or self.num_tokens > MAX_SHARED_TOKENS

    def start(self) -> LLMatcher:
        """A parser at the beginning of a text, with what is known of the grammar shared by all."""
        return self._start.deep_copy()


class Matcher:
    """Where one sequence is in its grammar, and which tokens may follow: next, and behind what is drafted."""

    def __init__(self, grammar: Grammar, param: str) -> None:
        self.grammar, self.param = grammar, param
        self.draft: Sequence[int] = ()
        """What may come next."""
        self.fault: str | None = None
        """Why nothing may follow although the text is not whole; None where it is just so."""
        self._parser = grammar.start()
        self._bits = self._no_bits()

    @property
    def is_done(self) -> bool:
        """The text is whole, and nothing can follow."""
        return self._parser.is_stopped() and not self._parser.is_error()

    def advance(self, token_id: int) -> None:
        """The sequence has one more token, which was allowed."""
        self._parser.consume_token(token_id)
        self.grammar.num_tokens += 1

    def fill(self) -> None:
        """Finds out what may follow; may block for as long as llguidance computes, without Python's lock."""
        if self.grammar.fault is not None:
            self.give_up(self.grammar.fault)
            return
        bits = self._bits = self._no_bits()
        fault = _fill_row(self._parser, bits[0])
        if self.fault is not None:
            return
        if fault is not None and not fault.startswith(DEAD_END):
            self.grammar.has_met_limit = True
            self.fault = fault_line(fault)
        if self.draft:
            self._look_ahead(bits)

    def give_up(self, fault: str) -> None:
        """Nothing may follow any more."""
        self.fault, self._bits = fault, self._no_bits()

    @property
    def is_accepting(self) -> bool:
        """The text is whole, by the last `fill`."""
        return _has(self._bits[0], self.grammar.vocab_size)

    @property
    def finish_reason(self) -> FinishReason:
        """How a sequence ends that nothing may follow: whole, or cut short, or at fault."""
        return "error" if self.fault is not None else "stop" if self.is_accepting else "length"

    def end(self, sequence_id: int, queue_duration: float | None) -> Tokens | Failed:
        """The last message of such a sequence."""
        if self.fault is not None:
            return Failed(sequence_id, "invalid", f"{self.param}: {self.fault}", self.param)
        return Tokens(
            id=sequence_id, token_ids=[], finish_reason=self.finish_reason, queue_duration=queue_duration
        )

    def allowed(self, ends: Collection[int], eos_token_ids: Collection[int], num_drafted: int = 0) -> Bits:
        """What may follow so many tokens of the draft by the last `fill`; nothing where they may not come.

        `ends` only behind a whole text, other end tokens never.
        """
        bits = self._bits[num_drafted].copy()
        is_accepting = _has(bits, self.grammar.vocab_size)
        for token_id in {*ends, *eos_token_ids, self.grammar.vocab_size}:
            bits[token_id // 32] &= ~(np.uint32(1) << np.uint32(token_id % 32))
        for token_id in ends if is_accepting else ():
            bits[token_id // 32] |= np.uint32(1) << np.uint32(token_id % 32)
        return bits

    def _no_bits(self) -> Bits:
        """[1 + length of the draft, words]: nothing may follow."""
        return np.zeros((1 + len(self.draft), self.grammar.vocab_size // 32 + 1), dtype=np.uint32)

    def _look_ahead(self, bits: Bits) -> None:
        """With a parser of its own: what becomes of a draft that does not hold is no matter."""
        parser = self._parser.deep_copy()
        for token_id, row in zip(self.draft, bits[1:], strict=True):
            if not parser.consume_token(token_id) or parser.is_stopped():
                return
            self.grammar.num_tokens += 1
            _fill_row(parser, row)


def _fill_row(parser: LLMatcher, row: Bits) -> str | None:
    """Writes what may follow; returns the fault because of which that is nothing."""
    parser.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
    if not parser.is_error():
        return None
    row[:] = 0
    return parser.get_error()


def _has(row: Bits, token_id: int) -> bool:
    return bool(row[token_id // 32] >> np.uint32(token_id % 32) & np.uint32(1))


def compile_constraint(constraint: Constraint, vocabulary: Vocabulary) -> Grammar:
    """Blocks. Raises ConstraintError for what is refused, and for what the vocabulary cannot begin to spell."""
    matcher = LLMatcher(
        vocabulary.tokenizer, source_for(constraint, vocabulary), log_level=0, limits=limits()
    )
    matcher.compute_bitmask()
    if matcher.is_error():
        fault = matcher.get_error()
        if fault.startswith(DEAD_END):
            raise ConstraintError("begins with what this model's vocabulary cannot spell")
        raise ConstraintError(fault_line(fault, constraint.kind))
    return Grammar(matcher, vocabulary.size)


def source_for(constraint: Constraint, vocabulary: Vocabulary) -> str:
    """llguidance's text, with the blank that decoding drops at the beginning of a text."""
    return source(constraint, has_blank=constraint.opens_text and vocabulary.drops_first_blank)


class _Tokens:
    """What llguidance asks of a tokenizer; it never has to tokenize, as no grammar of ours forces tokens."""

    eos_token_id = None
    bos_token_id = None
    special_token_ids = ()

    def __init__(self, tokens: list[bytes]) -> None:
        self.tokens = tokens

    def __call__(self, text: str | bytes) -> list[int]:
        raise AssertionError("a grammar of ours forces no tokens")
