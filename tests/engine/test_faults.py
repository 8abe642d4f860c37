"""Faults inside `step()`: the sequence at fault fails, all others have the tokens of an undisturbed run."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from app.engine.batch import build_batch
from app.engine.beam import advance
from app.engine.committer import Committer
from app.engine.constraint import Matcher
from app.engine.engine import Engine
from app.engine.flight import FlightRecorder, closing_fd, make_flight
from app.engine.protocol import Encoded, EncodeRequest, Failed, GenerateRequest, Hypotheses, Tokens
from app.engine.runner import Runner
from app.engine.sampler import sample
from app.engine.sampling_params import SamplingParams
from model.loading import save_model
from tests.engine.constrained import make_engine as make_byte_engine
from tests.engine.constrained import request as byte_request
from tests.engine.constrained import write_folder
from tests.engine.test_engine import make_engine
from tests.tiny import BERT, LLAMA, T5, random_model

POISON = 95
"""A token that the injected faults look for."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    for name, config in (("llama", LLAMA), ("t5", T5), ("bert", BERT)):
        save_model(random_model(config), root / name)
    return {name: root / name for name in ("llama", "t5", "bert")}


def requests() -> list[GenerateRequest | EncodeRequest]:
    """Of all kinds, none with the poison in it; nor do they come to say it."""
    source = random.Random(7)

    def ids() -> list[int]:
        return [source.randrange(3, POISON) for _ in range(source.randint(2, 20))]

    made: list[GenerateRequest | EncodeRequest] = []
    for number in range(1, 13):
        model = ("llama", "t5")[number % 2]
        how: dict[str, Any] = {"temperature": 0.9, "seed": number} if number % 3 else {}
        if number % 5 == 0:
            how = {"num_beams": 3, "num_return_sequences": 2}
        params = SamplingParams(max_tokens=8, ignore_eos=True, logit_bias={POISON: -100.0}, **how)
        made.append(GenerateRequest(id=number, model=model, prompt_ids=ids(), params=params))
    made += [EncodeRequest(id=number, model="bert", ids=ids(), output="class") for number in range(13, 17)]
    return made


def poisoned(number: int, model: str = "llama", **params: Any) -> GenerateRequest:
    return GenerateRequest(
        id=number, model=model, prompt_ids=[5, POISON, 9], params=SamplingParams(max_tokens=4, **params)
    )


def answers(engine: Engine) -> dict[int, Any]:
    """What each request got; a failure is its kind."""
    got: dict[int, Any] = {}
    while engine.has_work:
        for output in engine.step().outputs:
            match output:
                case Tokens():
                    got.setdefault(output.id, []).extend(output.token_ids)
                case Hypotheses():
                    got[output.id] = [one.token_ids for one in output.best]
                case Encoded():
                    got[output.id] = torch.frombuffer(bytearray(output.data), dtype=torch.float32)
                case Failed():
                    got[output.id] = output.kind
    return got


def check_equal(got: dict[int, Any], wanted: dict[int, Any]) -> None:
    assert got.keys() == wanted.keys()
    for number, one in wanted.items():
        if isinstance(one, torch.Tensor):
            torch.testing.assert_close(got[number], one, rtol=1e-6, atol=1e-6)
        else:
            assert got[number] == one


def undisturbed(folders: dict[str, Path]) -> dict[int, Any]:
    engine = make_engine(folders)
    for request in requests():
        engine.add(request)
    return answers(engine)


def _build(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(step: Any, *args: Any) -> Any:
        if any(POISON in (*s.token_ids, *s.source_ids) for s in step.sequences):
            raise KeyError("batch")
        return build_batch(step, *args)

    monkeypatch.setattr("app.engine.engine.build_batch", broken)


def _run(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Runner.run

    def broken(self: Runner, batch: Any) -> Any:
        rows = [batch.decode, batch.encode]
        if any(part is not None and (part.ids == POISON).any() for part in rows):
            raise RuntimeError("kernel")
        return real(self, batch)

    monkeypatch.setattr(Runner, "run", broken)


def _sample(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(logits: Any, rows: Any) -> Any:
        if any(POISON in row.token_ids[: row.num_prompt_tokens] for row in rows):
            raise IndexError("sample")
        return sample(logits, rows)

    monkeypatch.setattr("app.engine.choosing.sample", broken)


def _commit(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Committer._append

    def broken(self: Any, sequence: Any, token_id: int) -> bool:
        if POISON in sequence.token_ids[: sequence.num_prompt_tokens]:
            raise ValueError("append")
        return real(self, sequence, token_id)

    monkeypatch.setattr(Committer, "_append", broken)


FAULT_POINTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "batch": _build,
    "run": _run,
    "sample": _sample,
    "commit": _commit,
}


@pytest.mark.parametrize("stage", FAULT_POINTS)
def test_only_the_one_at_fault_fails(
    stage: str, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = undisturbed(folders)
    FAULT_POINTS[stage](monkeypatch)
    engine = make_engine(folders)
    free = engine._blocks.num_free
    bad = [poisoned(100)]
    if stage in ("batch", "run"):  # what a decoder never reads is not seen later
        bad.append(poisoned(101, "t5"))
    for number, request in enumerate(requests()):
        engine.add(request)
        if number == 5:
            for one in bad:
                engine.add(one)
    got = answers(engine)
    assert [got.pop(one.id) for one in bad] == ["internal"] * len(bad)
    check_equal(got, wanted)
    assert engine._blocks.num_free == free
    assert not any(lane.has_work for lane in engine._scheduler.lanes.every)


def test_a_search_at_fault_fails_alone(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = undisturbed(folders)

    def broken(group: Any, *args: Any) -> None:
        if POISON in group.members[0].token_ids:
            raise ValueError("search")
        advance(group, *args)

    monkeypatch.setattr("app.engine.committer.advance", broken)
    engine = make_engine(folders)
    for request in [poisoned(100, num_beams=2), *requests()]:
        engine.add(request)
    got = answers(engine)
    assert got.pop(100) == "internal"
    check_equal(got, wanted)


def test_a_step_too_large_for_the_memory_is_done_in_parts(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = undisturbed(folders)
    real, sizes = Runner.run, []

    def short(self: Runner, batch: Any) -> Any:
        if batch.num_tokens > 24:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        sizes.append(batch.num_tokens)
        return real(self, batch)

    monkeypatch.setattr(Runner, "run", short)
    engine = make_engine(folders)
    for request in requests():
        engine.add(request)
    check_equal(answers(engine), wanted)
    assert max(sizes) > 12  # cut, not crawling


def test_what_never_fits_the_memory_fails_alone(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = undisturbed(folders)
    real = Runner.run

    def short(self: Runner, batch: Any) -> Any:
        part = batch.decode
        if part is not None and (part.ids == POISON).any():
            raise torch.OutOfMemoryError("out of memory")
        return real(self, batch)

    monkeypatch.setattr(Runner, "run", short)
    engine = make_engine(folders)
    for request in [*requests(), poisoned(100)]:
        engine.add(request)
    got = answers(engine)
    assert got.pop(100) == "internal"
    check_equal(got, wanted)


def test_a_mask_at_fault_ends_its_text_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Matcher.fill

    def broken(self: Matcher) -> None:
        if self.param == "choice":
            raise IndexError("mask")
        real(self)

    monkeypatch.setattr(Matcher, "fill", broken)
    engine = make_byte_engine(write_folder(tmp_path / "bytes"))
    engine.add(byte_request(1, "choice", ["yes", "no"], max_tokens=60))
    engine.add(byte_request(2, "regex", "b{40}", max_tokens=60))
    got: dict[int, Any] = {}
    while len(got) < 2:
        got |= answers(engine)
    assert got[1] == "invalid"
    assert len(got[2]) == 40


@pytest.fixture
def recorder() -> Iterator[FlightRecorder]:
    fd = make_flight()
    with closing_fd(fd):
        yield FlightRecorder(fd)


def test_the_recorder_has_what_a_step_dies_of(
    folders: dict[str, Path], recorder: FlightRecorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine(folders)
    engine._recorder = recorder
    engine.add(poisoned(1))
    engine.step()
    assert recorder.read().lengths == {}

    def die(*args: Any) -> None:
        flight = recorder.read()
        assert flight.expected > 0.0
        assert flight.lengths == {1: 4}
        raise SystemExit

    monkeypatch.setattr(Runner, "run", die)
    with pytest.raises(SystemExit):
        engine.step()
    assert recorder.read().lengths == {1: 4}  # still, for who looks at the wreck


@pytest.mark.parametrize("cut", [0, 1, 5])
def test_sequences_go_on_behind_what_another_engine_said(folders: dict[str, Path], cut: int) -> None:
    wanted = undisturbed(folders)
    engine = make_engine(folders)
    for request in requests():
        if isinstance(request, GenerateRequest) and request.params.num_beams == 1:
            said = wanted[request.id][:cut]
            request = GenerateRequest(
                id=request.id,
                model=request.model,
                prompt_ids=request.prompt_ids,
                params=request.params,
                said=said,
                alone_until=None if request.id % 2 else 3,
            )
        engine.add(request)
    got = answers(engine)
    for number, one in wanted.items():
        if isinstance(one, list) and one and isinstance(one[0], int):
            got[number] = one[:cut] + got[number]
    check_equal(got, wanted)


def test_constraints_and_rules_go_on_behind_what_was_said(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "bytes")
    asked: list[GenerateRequest] = [
        byte_request(1, "regex", "(ab|ba){20}", max_tokens=60, temperature=1.0, seed=3),
        byte_request(
            2, max_tokens=40, no_repeat_ngram_size=2, repetition_penalty=1.3, seed=5, temperature=0.8
        ),
    ]
    engine = make_byte_engine(folder)
    for request in asked:
        engine.add(request)
    wanted = _wait_for_answers(engine, 2)
    for cut in (1, 7, 30):
        engine = make_byte_engine(folder)
        for request in asked:
            said = wanted[request.id][:cut]
            engine.add(
                GenerateRequest(
                    id=request.id,
                    model=request.model,
                    prompt_ids=request.prompt_ids,
                    params=request.params,
                    constraint=request.constraint,
                    said=said,
                )
            )
        got = _wait_for_answers(engine, 2)
        assert {number: wanted[number][:cut] + got[number] for number in got} == wanted


def _wait_for_answers(engine: Engine, count: int) -> dict[int, list[int]]:
    """Also for those whose constraints compile meanwhile."""
    got: dict[int, list[int]] = {}
    finished = 0
    while finished < count:
        for output in engine.step().outputs:
            assert isinstance(output, Tokens)
            got.setdefault(output.id, []).extend(output.token_ids)
            finished += output.finish_reason is not None
    return got
