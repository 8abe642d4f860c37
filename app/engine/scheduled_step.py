"""What one step of a model computes, as the scheduler hands it out."""

from dataclasses import dataclass, field

from app.engine.sequence import Sequence


@dataclass
class ScheduledStep:
    """One model's next step: the sequences in it, and beside them how many decoder tokens each computes.

    `num_decoding` of them, the first ones, compute their last token after earlier ones, and together `num_drafted`
    that may follow; the others are in their prompts, which may take several steps. Those that need it have their
    source encoded, always whole.
    Before anything is written, `stale_blocks` must be cleared and then each (from, to) of `copies` be copied.
    `preempted` are the ids of those that gave their blocks back for it.
    """

    model: str
    is_quarantine: bool = False
    sequences: list[Sequence] = field(default_factory=list)
    num_tokens: list[int] = field(default_factory=list)
    num_decoding: int = 0
    num_drafted: int = 0
    stale_blocks: list[int] = field(default_factory=list)
    copies: list[tuple[int, int]] = field(default_factory=list)
    preempted: list[int] = field(default_factory=list)

    def add(self, sequence: Sequence, num_tokens: int) -> None:
        """Lets a sequence compute that many more of its decoder tokens."""
        self.sequences.append(sequence)
        self.num_tokens.append(num_tokens)

    @property
    def units(self) -> list[list[Sequence]]:
        """Its sequences, the beams of one search together."""
        return list({id(sequence.unit[0]): sequence.unit for sequence in self.sequences}.values())

    @property
    def size(self) -> int:
        """Tokens that it computes, those of sources among them."""
        sources = (len(sequence.source_ids) for sequence in self.sequences if sequence.needs_encode)
        return sum(self.num_tokens) + sum(sources)
