"""Steps take about as long as wanted: what is measured decides how much of a prompt goes into the next one."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from app.engine.batch import Batch
from app.engine.engine import Engine
from app.engine.pace import FIRST_TOKENS, LEAST_TOKENS, Pace
from app.engine.protocol import EncodeRequest, Tokens
from model.loading import save_model
from tests.engine.test_engine import greedy, make_engine
from tests.tiny import BERT, LLAMA, random_model


def test_the_budget_is_what_fits_into_the_target() -> None:
    pace = Pace(0.1)
    assert pace.budget("m", is_decoding=False) == FIRST_TOKENS
    pace.note("m", 0, 500, 0.5)
    assert pace.budget("m", is_decoding=False) == 100
    assert pace.budget("other", is_decoding=False) == FIRST_TOKENS


def test_a_decoders_prompts_may_take_longer_while_nobody_decodes() -> None:
    pace = Pace(0.1)
    pace.note("m", 4, 0, 0.04)
    pace.note("m", 0, 500, 0.5)
    assert pace.budget("m", is_decoding=False, is_anyone_decoding=False) == pytest.approx(500, abs=1)
    assert pace.budget("m", is_decoding=False, is_cut=False, is_anyone_decoding=False) == 100


def test_those_who_decode_come_out_of_the_time_of_prompts() -> None:
    pace = Pace(0.1)
    for _ in range(50):
        pace.note("m", 4, 0, 0.04)
        pace.note("m", 4, 100, 0.14)
    assert pace.budget("m", is_decoding=True) == pytest.approx(60, abs=1)
    assert pace.budget("m", is_decoding=False) == pytest.approx(100, abs=1)


@pytest.mark.parametrize(("decode", "tokens"), [(0.02, 300), (0.004, 100)])
def test_prompts_add_no_more_than_one_and_a_half_times_what_decoding_takes(
    decode: float, tokens: int
) -> None:
    """Or ten milliseconds, where that is more."""
    pace = Pace(0.1)
    for _ in range(50):
        pace.note("m", 4, 0, decode)
        pace.note("m", 4, 100, decode + 0.01)
    assert pace.budget("m", is_decoding=True) == pytest.approx(tokens, abs=1), "not 800 or 960"
    assert pace.budget("m", is_decoding=True, is_cut=False) == pytest.approx(10_000 * (0.1 - decode), abs=1)
    assert pace.budget("m", is_decoding=False) == pytest.approx(1000, abs=1)


@pytest.mark.parametrize("is_cut", [True, False])
def test_where_decoding_fills_the_target_prompts_take_half_again_as_long(is_cut: bool) -> None:
    pace = Pace(0.1)
    for _ in range(50):
        pace.note("m", 16, 0, 0.2)
        pace.note("m", 16, 100, 0.3)
    assert pace.budget("m", is_decoding=True, is_cut=is_cut) == pytest.approx(300, abs=1)


def test_who_waits_longer_gets_more_of_a_step_up_to_a_limit() -> None:
    pace = Pace(0.1)
    for _ in range(50):
        pace.note("m", 4, 0, 0.05)
        pace.note("m", 4, 100, 0.15)
    budgets = [pace.budget("m", is_decoding=True, waited=seconds) for seconds in (0.0, 1.0, 2.0, 60.0)]
    assert budgets == pytest.approx([75, 75, 300, 550], abs=1)
    assert pace.budget("m", is_decoding=False, waited=60.0) == pytest.approx(100, abs=1)
    assert pace.budget("m", is_decoding=True, is_cut=False, waited=60.0) == pytest.approx(75, abs=1)


def test_a_few_tokens_that_took_long_weigh_little_and_a_new_speed_is_learned() -> None:
    pace = Pace(0.1)
    pace.note("m", 0, 4000, 4.0)
    pace.note("m", 0, 1, 0.05)
    assert pace.budget("m", is_decoding=False) > 90
    for _ in range(10):
        pace.note("m", 0, 1000, 4.0)
    assert pace.budget("m", is_decoding=False) == pytest.approx(25, abs=1)


def test_a_prompt_always_goes_on() -> None:
    pace = Pace(0.1)
    pace.note("m", 3, 0, 5.0)
    pace.note("m", 3, 10, 90.0)
    assert pace.budget("m", is_decoding=True) == LEAST_TOKENS


class Costs:
    """A clock that only goes on while a model computes: so many seconds for each token of its."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def put_on(self, engine: Engine, model: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
        runner = engine._runners[model]
        run: Callable[[Batch], object] = runner.run

        def slow(batch: Batch) -> object:
            self.now += seconds * batch.num_tokens
            return run(batch)

        monkeypatch.setattr(runner, "run", slow)


@pytest.fixture
def costs() -> Costs:
    return Costs()


@pytest.fixture
def engine(tmp_path: Path, costs: Costs) -> Engine:
    """Its steps should take 100 ms."""
    for name, config in (("llama", LLAMA), ("bert", BERT)):
        save_model(random_model(config), tmp_path / name)
    folders = {name: tmp_path / name for name in ("llama", "bert")}
    return make_engine(folders, token_budget=2048, target_step_ms=100.0, clock=costs)


def batch_tokens(engine: Engine) -> list[int]:
    """Of all steps until nothing is left."""
    found = []
    while engine.has_work:
        report = engine.step().report
        assert report is not None
        found.append(report.batch_tokens)
    return found


def test_many_classifications_do_not_stall_a_stream(
    engine: Engine, costs: Costs, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs.put_on(engine, "llama", 0.02, monkeypatch)
    costs.put_on(engine, "bert", 0.002, monkeypatch)
    engine.add(greedy(0, "llama", [5], 60, ignore_eos=True))
    engine.step()
    for i in range(1, 201):
        engine.add(EncodeRequest(id=i, model="bert", ids=[3 + i % 90] * 20, output="class"))
    came = [costs.now]
    while engine.has_work:
        if any(isinstance(output, Tokens) for output in engine.step().outputs):
            came.append(costs.now)
    gaps = sorted(after - before for before, after in pairwise(came))
    assert len(gaps) == 59
    assert 0.09 < gaps[-2] < 0.121, "a step of theirs, then one of its own"
    assert gaps[-1] < 0.002 * FIRST_TOKENS + 0.021, (
        "the first step of theirs, of which nobody knew what it costs"
    )
    assert costs.now == pytest.approx(60 * 0.02 + 200 * 20 * 0.002), "nothing is lost by it"


def test_a_long_prompt_goes_in_pieces_while_others_decode(
    engine: Engine, costs: Costs, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs.put_on(engine, "llama", 0.001, monkeypatch)
    engine.add(greedy(0, "llama", [5], 40, ignore_eos=True))
    for _ in range(3):
        engine.step()
    engine.add(greedy(1, "llama", [*range(3, 88)] + [7] * 40, 3, ignore_eos=True))
    tokens = batch_tokens(engine)
    assert tokens[:7] == [LEAST_TOKENS + 1] * 7, "decoding takes a millisecond, so that little is added"
    assert sum(tokens[:8]) == 125 + 8
    assert max(tokens[8:]) == 2


def test_prompts_that_nobody_decodes_beside_are_hardly_cut(
    engine: Engine, costs: Costs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those of which a part is computed are no one who decodes."""
    costs.put_on(engine, "llama", 0.001, monkeypatch)
    costs.put_on(engine, "bert", 0.001, monkeypatch)
    engine.add(greedy(0, "llama", [5], 2, ignore_eos=True))
    batch_tokens(engine)
    for i in range(1, 7):
        engine.add(greedy(i, "llama", [*range(3 + i, 88 + i)] + [7] * 40, 1, ignore_eos=True))
    assert batch_tokens(engine) == [500, 250]
    for i in range(7, 13):
        engine.add(greedy(i, "llama", [*range(80 + i, i - 5, -1)] + [7] * 40, 1, ignore_eos=True))
    engine.add(greedy(13, "llama", [9], 2, ignore_eos=True))
    assert max(batch_tokens(engine)) <= 500


def test_a_prompt_that_has_waited_long_gets_more_of_a_step(
    engine: Engine, costs: Costs, monkeypatch: pytest.MonkeyPatch
) -> None:
    costs.put_on(engine, "llama", 0.002, monkeypatch)
    engine.add(greedy(0, "llama", [5], 40, ignore_eos=True))
    for _ in range(3):
        engine.step()
    engine.add(greedy(1, "llama", [*range(3, 88)] + [7] * 40, 3, ignore_eos=True))
    costs.now += 20.0
    tokens = batch_tokens(engine)
    assert tokens[0] == pytest.approx(126, abs=1), (
        "all that is left of the longest step: the whole prompt, and who decodes"
    )
    assert max(tokens[2:]) == 2


def test_who_is_alone_is_not_cut(engine: Engine, costs: Costs, monkeypatch: pytest.MonkeyPatch) -> None:
    costs.put_on(engine, "llama", 0.001, monkeypatch)
    for i in range(2):
        engine.add(greedy(i, "llama", [*range(3 + i, 88 + i)] + [7] * 40, 2, ignore_eos=True))
        assert batch_tokens(engine) == [125, 1]
