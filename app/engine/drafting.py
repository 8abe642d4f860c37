"""Which sequences get a draft of what they say next, and how long: where that makes text come faster."""

from app.engine.sequence import Sequence
from app.engine.speculation import HOPELESS, NO_DRAFT, Draft, Speculator, StepCost


class Drafting:
    """Weighs what a guess promises against what computing one more row of a step takes, for each model; where it is not
    `is_on`, nothing is drafted."""

    def __init__(self, is_on: bool) -> None:
        self._is_on = is_on
        self._costs: dict[str, StepCost] = {}
        self.num_held = 0
        """Tokens of drafts that held, so far."""

    def add_model(self, model: str) -> None:
        """Its sequences may come."""
        if self._is_on:
            self._costs[model] = StepCost()

    def forget(self, model: str) -> None:
        """It is gone."""
        self._costs.pop(model, None)

    def note(self, model: str, num_rows: int, seconds: float) -> None:
        """A step has computed so many rows, none of them a prompt's."""
        if model in self._costs:
            self._costs[model].note(num_rows, seconds)

    def renew(self, sequence: Sequence, draft: Draft, num_held: int, num_rows: int) -> None:
        """Another draft in the place of one of which `num_held` tokens held, for a step of about `num_rows`."""
        self.num_held += num_held
        sequence.draft = NO_DRAFT
        cost = self._costs.get(sequence.model)
        if cost is None or sequence.finish_reason is not None or not sequence.can_speculate:
            return
        floor = cost.floor(num_rows)
        if sequence.speculator is None:
            if floor >= HOPELESS:
                return
            sequence.speculator = Speculator(sequence.source_ids)
        if draft.token_ids:
            sequence.speculator.judge(draft, num_held)
        if floor < HOPELESS:
            most = sequence.max_tokens - sequence.num_completion_tokens - 1
            sequence.draft = sequence.speculator.draft(sequence.token_ids, most, floor)
