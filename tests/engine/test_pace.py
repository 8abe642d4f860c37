"""Steps take about as long as wanted: what is measured decides how much of a prompt goes into the next one."""

import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

from app.engine.batch import Batch
from app.engine.engine import Engine
from app.engine.pace import FIRST_TOKENS, LEAST_TOKENS, Pace
from app.engine.protocol import EncodeRequest, Tokens
from app.engine.scheduler import REST
from benchmarks.workloads import w2_trace
from model.loading import save_model
from tests.engine.test_engine import greedy, make_engine
from tests.tiny import BERT, LLAMA, random_model

SLOW = (0.045, 0.002)
"""Seconds of a step of a model of half a billion parameters: what is fixed, and what each token takes."""
FAST = (0.003, 0.0001)


def learned(fixed: float, token: float) -> Pace:
    """For steps of 100 ms, after some of all kinds."""
    pace, source = Pace(0.1), random.Random(0)
    for _ in range(400):
        rows, prompt = source.randint(0, 16), source.choice([0, 20, 200])
        pace.note("m", rows, prompt, fixed + token * (rows + prompt))
    return pace


def test_the_budget_is_what_fits_into_the_target() -> None:
    pace = learned(0.02, 0.001)
    assert pace.budget("m", 0) == pytest.approx(80, rel=0.05)
    assert pace.budget("other", 0) == FIRST_TOKENS
    pace.forget("m")
    assert pace.budget("m", 0) == FIRST_TOKENS


def test_before_a_prompt_is_measured_it_is_a_guess() -> None:
    pace = Pace(0.1)
    pace.note("m", 4, 0, 0.04)
    assert pace.budget("m", 4) == FIRST_TOKENS
    pace.note("m", 0, 500, 0.5)
    assert pace.budget("m", 0) == pytest.approx(100, rel=0.1), "and then all of a step is its prompts"


def test_a_decoders_prompts_may_take_longer_while_nobody_decodes() -> None:
    pace = learned(0.02, 0.001)
    assert pace.budget("m", 0, is_anyone_decoding=False) == pytest.approx(480, rel=0.05)
    assert pace.budget("m", 0, is_cut=False, is_anyone_decoding=False) == pytest.approx(80, rel=0.05)


@pytest.mark.parametrize(("rows", "tokens"), [(4, 80), (23, 80), (60, 228), (120, 632)])
def test_prompts_add_eight_milliseconds_and_more_with_the_square_of_what_decoding_takes(
    rows: int, tokens: int
) -> None:
    pace = learned(*FAST)
    assert pace.budget("m", rows) == pytest.approx(tokens, rel=0.05), "not 966 or 850"
    assert pace.budget("m", 4, is_cut=False) == pytest.approx(966, rel=0.05)
    assert pace.budget("m", 0) == pytest.approx(970, rel=0.05)


@pytest.mark.parametrize("is_cut", [True, False])
def test_where_decoding_fills_the_target_prompts_take_half_again_as_long(is_cut: bool) -> None:
    pace = learned(0.168, 0.002)
    assert pace.budget("m", 16, is_cut) == pytest.approx(150, rel=0.05)
    assert pace.budget("m", 0, is_cut) == pytest.approx(126, rel=0.05), "as well as reading the weights does"


def test_who_waits_longer_gets_more_of_a_step_up_to_a_limit() -> None:
    pace = learned(*FAST)
    budgets = [pace.budget("m", 4, waited=seconds) for seconds in (0.0, 1.0, 2.0, 3.0, 60.0)]
    assert budgets == pytest.approx([80, 80, 320, 720, 3465], rel=0.05)
    assert pace.budget("m", 0, waited=60.0) == pytest.approx(970, rel=0.05)
    assert pace.budget("m", 4, is_cut=False, waited=60.0) == pytest.approx(966, rel=0.05)


def test_a_slow_models_prompts_wait_for_nothing_and_lengthen_steps_to_a_limit() -> None:
    pace = learned(*SLOW)
    budgets = [pace.budget("m", 16, waited=seconds) for seconds in (0.0, 0.1, 60.0)]
    assert budgets == pytest.approx([136, 136, 136], rel=0.05), "350 ms less decoding"


def test_a_prompt_always_goes_on() -> None:
    assert learned(0.0, 9.0).budget("m", 3) == LEAST_TOKENS


class Costs:
    """A clock that only goes on while a model computes: so many seconds for each token of its, and for each step."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def put_on(
        self,
        engine: Engine,
        model: str,
        seconds: float,
        monkeypatch: pytest.MonkeyPatch,
        fixed: float = 0.0,
    ) -> None:
        runner = engine._runners[model]
        run: Callable[[Batch], object] = runner.run

        def slow(batch: Batch) -> object:
            self.now += fixed + seconds * batch.num_tokens
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
    assert max(batch_tokens(engine)) <= 500 + 500 // REST


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


def test_a_queue_of_prompts_that_never_empties_waits_little_and_halts_nobody_for_long(
    engine: Engine, costs: Costs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen clients at a time of a model whose steps take 45 ms and 2 ms a token, and none of them without a prompt
    when it is to be learned what prompts take."""
    costs.put_on(engine, "llama", 0.002, monkeypatch, fixed=0.045)
    left = list(enumerate(w2_trace(1000, 48, prompt=(4, 60), output=(4, 64))))
    asked: dict[int, float] = {}
    spoke: dict[int, float] = {}
    first, gaps = [], []
    num_open = 0
    while left or engine.has_work:
        while left and num_open < 16:
            i, request = left.pop(0)
            prompt = [3 + token % 80 for token in request.prompt]
            engine.add(greedy(i, "llama", prompt, request.num_output, ignore_eos=True))
            asked[i] = costs.now
            num_open += 1
        for output in engine.step().outputs:
            assert isinstance(output, Tokens)
            if output.id in spoke:
                gaps.append(costs.now - spoke[output.id])
            else:
                first.append(costs.now - asked[output.id])
            spoke[output.id] = costs.now
            num_open -= output.finish_reason is not None
    assert median(first) < 0.4
    assert median(gaps) < 0.1
    assert max(gaps) < 0.5
