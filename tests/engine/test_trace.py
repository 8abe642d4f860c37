"""What the engine tells of its last steps: all of their time, their sequences' numbers, a bounded answer."""

from pathlib import Path

import pytest

from app.engine.engine import Engine
from app.engine.framing import MAX_FRAME_BYTES, encode_frame
from app.engine.protocol import EncodeRequest, Report
from app.engine.questions import MAX_TRACED_STEPS, Traced, TracedStep, TraceSteps
from app.engine.scheduled_step import ScheduledStep
from app.engine.trace import MAX_TRACED_SEQUENCES, Laps, Trace
from model.loading import save_model
from tests.engine.test_engine import collect, drain, greedy, make_engine
from tests.engine.test_scheduler import sequence_of
from tests.tiny import BERT, LLAMA, random_model

DECODER_STAGES = ["schedule", "batch", "run", "sample", "commit"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    for name, config in {"llama": LLAMA, "bert": BERT}.items():
        save_model(random_model(config), root / name)
    return {name: root / name for name in ("llama", "bert")}


def traced(engine: Engine, steps: int = MAX_TRACED_STEPS) -> list[TracedStep]:
    engine.ask(TraceSteps(7, steps))
    [reply] = engine.replies()
    assert isinstance(reply, Traced)
    assert reply.id == 7
    assert engine.replies() == []
    return reply.steps


def test_each_step_tells_its_stages_tokens_and_sequences(folders: dict[str, Path]) -> None:
    engine = make_engine(folders, token_budget=8)
    assert traced(engine) == []
    engine.add(greedy(1, "llama", [5] * 12, 4, ignore_eos=True))
    engine.add(greedy(2, "llama", [6] * 12, 4, ignore_eos=True))
    engine.add(EncodeRequest(id=3, model="bert", ids=[1, 2, 3], output="class"))
    drain(engine, {}, {})
    steps = traced(engine)
    of_llama = [step for step in steps if step.model == "llama"]
    [of_bert] = [step for step in steps if step.model == "bert"]
    assert [name for name, _, _ in of_bert.stages] == ["schedule", "batch", "run", "commit"]
    assert (of_bert.phase, of_bert.prompt_tokens) == ("encode", 3)
    assert (of_bert.ids, of_bert.lengths, of_bert.computed) == ([3], [3], [0])
    for step in of_llama:
        assert step.num_sequences == len(step.ids) == len(step.lengths)
        assert sum(step.computed) == step.decoding_tokens + step.prompt_tokens + step.drafted_tokens
    first, second, last = of_llama[0], of_llama[1], of_llama[-1]
    assert (first.phase, first.ids, first.lengths, first.computed) == ("prefill", [1], [12], [8])
    assert (second.phase, second.ids, second.lengths, second.computed) == (
        "prefill",
        [1, 2],
        [13, 12],
        [4, 4],
    )
    assert (last.phase, last.ids, last.lengths, last.computed) == ("decode", [2], [16], [1])
    assert (last.decoding_tokens, last.prompt_tokens, last.drafted_tokens) == (1, 0, 0)
    assert [name for name, _, _ in first.stages] == ["schedule", "batch", "run", "commit"], (
        "no token comes yet"
    )
    for step in of_llama[1:]:
        assert [name for name, _, _ in step.stages] == DECODER_STAGES
    for step in steps:
        ends = [ended for _, _, ended in step.stages]
        assert [began for _, began, _ in step.stages[1:]] == ends[:-1], "no time is nobody's"
        assert all(began < ended for _, began, ended in step.stages)
    assert traced(engine, 2) == steps[-2:]


def test_preemptions_and_guesses_are_told(folders: dict[str, Path]) -> None:
    engine = make_engine({"llama": folders["llama"]}, kv_cache_memory=60_000, speculation=True)
    for number in range(4):
        engine.add(greedy(number, "llama", [5, 6, 5, 6, 5, number], 60, ignore_eos=True))
    num_preempted = num_drafted = num_accepted = 0
    while engine.has_work:
        report = engine.step().report
        assert report is not None
        num_preempted += report.preemptions
        num_drafted += report.drafted_tokens
        num_accepted += report.accepted_tokens
    steps = traced(engine)
    assert sum(step.preemptions for step in steps) == num_preempted > 0
    assert sum(step.drafted_tokens for step in steps) == num_drafted > 0
    assert sum(step.accepted_tokens for step in steps) == num_accepted > 0


def test_a_step_that_failed_is_not_told_and_the_next_one_is(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine({"llama": folders["llama"]})
    engine.add(greedy(1, "llama", [5], 4))
    with monkeypatch.context() as patch:
        patch.setattr(engine._runners["llama"], "run", None)
        engine.step()
    engine.add(greedy(2, "llama", [5], 1))
    collect(engine, {}, {}, {})
    assert [step.ids for step in traced(engine)] == [[2]]


def test_the_largest_answer_fits_a_frame_many_times() -> None:
    trace = Trace()
    step = ScheduledStep("m" * 128)
    for number in range(MAX_TRACED_SEQUENCES + 50):
        step.add(sequence_of(2**62 + number, [1] * 10, [], "m", 1), 1_000_000)
    report = Report(
        model="m" * 128, phase="decode", duration_s=1.0, batch_size=len(step.sequences), batch_tokens=2**40
    )
    for _ in range(MAX_TRACED_STEPS + 10):
        laps = Laps(iter([0.1 + i for i in range(6)]).__next__)
        for name in DECODER_STAGES:
            laps.end(name)
        trace.note(step, report, laps)
    answer = trace.answer(TraceSteps(1, MAX_TRACED_STEPS + 10))
    assert len(answer.steps) == MAX_TRACED_STEPS
    assert answer.steps[0].num_sequences == MAX_TRACED_SEQUENCES + 50
    assert len(answer.steps[0].ids) == MAX_TRACED_SEQUENCES
    assert len(encode_frame(answer)) < MAX_FRAME_BYTES / 8
