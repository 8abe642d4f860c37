"""Whole models that come and go while a real engine runs: nothing stops, nobody's tokens change, all is freed."""

import gc
import json
import shutil
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from app.engine.admission import RequestError
from app.engine.build import build_engine
from app.engine.engine import Engine
from app.engine.protocol import (
    AdapterSpec,
    Constraint,
    Encoded,
    EncodeRequest,
    GenerateRequest,
    ModelSpec,
    WorkerConfig,
)
from app.engine.questions import LoadAdapter, Loaded, LoadModel, Question, Refused, Reply, Unload, Unloaded
from app.engine.sampling_params import SamplingParams
from model.config import CheckpointError, TransformerConfig
from model.loading import load_model, save_model
from tests.engine.constrained import write_folder
from tests.engine.test_adapters import write_adapter
from tests.engine.test_engine import collect, drain, greedy
from tests.tiny import BERT, LLAMA, T5, random_model

PROMPT = [5, 6, 7, 8] * 10
WIDE = {"num_decoder_layers": 12, "num_kv_heads": 4, "head_dim": 32}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two sets of weights of one shape, other kinds, one whose cache is 25 times as wide, and one that is broken."""
    root = tmp_path_factory.mktemp("checkpoints")
    shapes: dict[str, tuple[TransformerConfig, int, dict[str, Any]]] = {
        "old": (LLAMA, 0, {}),
        "new": (LLAMA, 1, {}),
        "t5": (T5, 0, {}),
        "bert": (BERT, 0, {}),
        "wide": (LLAMA, 0, WIDE),
    }
    for name, (config, seed, changes) in shapes.items():
        save_model(random_model(config, seed, **changes), root / name)
    write_adapter(root / "tales", root / "old", 0)
    shutil.copytree(root / "new", root / "broken")
    weights = root / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    return {path.name: path for path in root.iterdir()}


class Running:
    """An engine, and what its threads have woken it for."""

    def __init__(
        self, folders: dict[str, Path], names: Sequence[str] = ("old", "t5", "bert"), **options: Any
    ) -> None:
        self.folders = folders
        config: dict[str, Any] = {
            "device": "cpu",
            "dtype": "float64",
            "kv_cache_memory": 400_000,
            "token_budget": 64,
        }
        specs = [ModelSpec(name, str(folders[name])) for name in names]
        self.engine = build_engine(WorkerConfig(models=specs, **(config | options)))
        self.woken = threading.Semaphore(0)
        self.engine.when_ready(self.woken.release)

    def ask(self, question: Question) -> list[Reply]:
        self.engine.ask(question)
        return self.engine.replies()

    def settled(self) -> Reply:
        """Waits for the thread."""
        replies: list[Reply] = []
        while not replies:
            assert self.woken.acquire(timeout=30.0)
            replies = self.engine.replies()
        [reply] = replies
        return reply

    def load(self, name: str, folder: str, weight: float = 1.0) -> Reply:
        replies = self.ask(LoadModel(1, ModelSpec(name, str(self.folders[folder]), weight)))
        return replies[0] if replies else self.settled()

    def tokens(self, *requests: GenerateRequest) -> dict[int, list[int]]:
        for request in requests:
            self.engine.add(request)
        tokens: dict[int, list[int]] = {}
        drain(self.engine, tokens, {})
        return tokens


def ask_for(number: int, model: str, count: int = 12, prompt: Sequence[int] = PROMPT) -> GenerateRequest:
    return greedy(number, model, list(prompt), count, ignore_eos=True)


def num_held(engine: Engine) -> int:
    blocks = engine._scheduler.blocks
    return blocks.num_blocks - blocks.num_free


@pytest.fixture(scope="module")
def expected(folders: dict[str, Path]) -> dict[str, list[int]]:
    """The tokens of each, from engines that had them when they started."""
    found = {
        name: Running(folders, [name], kv_cache_memory=8_000_000).tokens(ask_for(1, name))[1]
        for name in ("old", "new", "t5", "wide")
    }
    assert found["old"] != found["new"]
    return found


def test_old_weights_end_what_they_began_while_new_ones_begin(
    folders: dict[str, Path], expected: dict[str, list[int]]
) -> None:
    running = Running(folders)
    engine = running.engine
    tokens: dict[int, list[int]] = {}
    old = weakref.ref(engine._runners["old"].model)
    engine.add(ask_for(1, "old"))
    engine.add(ask_for(2, "t5"))
    while not tokens.get(1):
        collect(engine, tokens, {}, {})
    reply = running.load("old:1", "new")
    assert isinstance(reply, Loaded)
    assert running.ask(Unload(2, "old")) == [], "somebody is at work on it"
    with pytest.raises(RequestError, match="unknown model 'old'"):
        engine.add(ask_for(3, "old"))
    engine.add(ask_for(4, "old:1"))  # the same prompt, whose blocks must not be taken for its own
    steps = 0
    while engine.has_work:
        collect(engine, tokens, {}, {})
        steps += 1
    assert (tokens[1], tokens[2], tokens[4]) == (expected["old"], expected["t5"], expected["new"])
    assert engine.replies() == [Unloaded(2)]
    gc.collect()
    assert old() is None, "its weights are freed"
    assert num_held(engine) == 0
    assert {info.name for info in engine.infos} == {"t5", "bert", "old:1"}
    assert running.tokens(ask_for(5, "old:1"))[5] == expected["new"]


def test_steps_go_on_while_a_model_is_read(
    folders: dict[str, Path], expected: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Running(folders)
    began, released = threading.Semaphore(0), threading.Semaphore(0)

    def held(*arguments: Any) -> Any:
        began.release()
        assert released.acquire(timeout=30.0)
        return load_model(*arguments)

    monkeypatch.setattr("app.engine.build.load_model", held)
    for number, name in enumerate(("a", "b")):
        assert running.ask(LoadModel(number, ModelSpec(name, str(folders["new"])))) == []
    assert began.acquire(timeout=30.0)
    assert running.tokens(ask_for(1, "old"))[1] == expected["old"]
    taken = running.ask(LoadModel(5, ModelSpec("b", str(folders["new"]))))
    assert isinstance(taken[0], Refused)
    assert taken[0].param == "name"
    for name in ("a", "b"):
        released.release()
        reply = running.settled()
        assert isinstance(reply, Loaded)
        assert reply.info.name == name
    assert running.tokens(ask_for(2, "a"), ask_for(3, "b")) == {2: expected["new"], 3: expected["new"]}


def test_a_model_is_told_as_it_would_be_at_the_start(folders: dict[str, Path]) -> None:
    at_start = {info.name: info for info in Running(folders, ["old", "t5", "bert"]).engine.infos}
    running = Running(folders, ["t5"])
    fields = (
        "kind",
        "parameters",
        "bytes",
        "dtype",
        "num_blocks",
        "block_size",
        "max_model_len",
        "vocab_size",
    )
    for name in ("old", "bert"):
        reply = running.load(name, name, 2.5)
        assert isinstance(reply, Loaded)
        assert reply.info.load_seconds > 0.0
        assert [getattr(reply.info, f) for f in fields] == [getattr(at_start[name], f) for f in fields]
        assert reply.info in running.engine.infos
    lanes = running.engine._scheduler.lanes
    assert (lanes.ordinary["old"].weight, lanes.quarantine["old"].weight) == (2.5, 2.5)


def test_what_is_under_way_is_waited_for_and_nothing_is_left(folders: dict[str, Path]) -> None:
    """Encodes, beams, sequences that wait for their constraint or have not begun."""
    running = Running(folders, max_num_seqs=2)
    engine = running.engine
    beams = SamplingParams(max_tokens=6, num_beams=3, seed=0)
    engine.add(
        GenerateRequest(id=1, model="t5", prompt_ids=PROMPT, params=SamplingParams(max_tokens=6, seed=0))
    )
    engine.add(
        GenerateRequest(id=2, model="t5", prompt_ids=PROMPT[:9], params=SamplingParams(max_tokens=6, seed=0))
    )
    engine.add(ask_for(3, "t5"))
    with pytest.raises(RequestError):
        engine.add(GenerateRequest(id=4, model="t5", prompt_ids=PROMPT, params=beams))
    constraint = Constraint("regex", "a+", "regex")
    params = SamplingParams(max_tokens=4)
    engine.add(GenerateRequest(id=5, model="old", prompt_ids=[5], params=params, constraint=constraint))
    engine.add(EncodeRequest(id=6, model="bert", ids=[3, 4, 5], output="class"))
    for number, name in enumerate(("t5", "old", "bert")):
        assert running.ask(Unload(number, name)) == []
    engine.abort([5])
    tokens: dict[int, list[int]] = {}
    encoded: dict[int, Encoded] = {}
    reasons = drain(engine, tokens, encoded)
    assert set(reasons) == {1, 2, 3}
    assert set(encoded) == {6}
    assert sorted(engine.replies(), key=lambda reply: reply.id) == [Unloaded(n) for n in range(3)]
    assert engine.infos == []
    blocks = engine._scheduler.blocks
    assert blocks.num_free == blocks.num_blocks
    assert not blocks._keys, "nothing can be found of what is gone"
    assert isinstance(running.load("old", "old"), Loaded)


def test_models_of_other_widths_share_the_pages_that_there_are(
    folders: dict[str, Path], expected: dict[str, list[int]]
) -> None:
    """In a cache so small that they take each other's pages all the time."""
    running = Running(folders, ["wide"], kv_cache_memory=12 * 16 * 24_576)
    assert isinstance(running.load("old", "old"), Loaded)
    assert isinstance(running.load("t5", "t5"), Loaded)
    sizes = {info.name: info.block_size for info in running.engine.infos}
    assert sizes["wide"] == 16
    assert sizes["old"] > sizes["t5"] > 16
    for numbers in (range(6), range(6, 12)):
        names = [("wide", "old", "t5")[number % 3] for number in numbers]
        found = running.tokens(*(ask_for(n, name) for n, name in zip(numbers, names, strict=True)))
        assert found == {n: expected[name] for n, name in zip(numbers, names, strict=True)}
    assert running.ask(Unload(9, "wide")) == [Unloaded(9)]
    assert running.tokens(ask_for(20, "old"))[20] == expected["old"]
    assert num_held(running.engine) == 0


@pytest.mark.parametrize("names", [("old",), ("bert",)], ids=str)
def test_a_page_that_is_too_small_is_told_with_what_to_set(
    folders: dict[str, Path], expected: dict[str, list[int]], names: Sequence[str]
) -> None:
    running = Running(folders, names)
    refused = running.load("wide", "wide")
    assert isinstance(refused, Refused)
    assert (refused.kind, refused.param) == ("invalid", "path")
    assert f"--kv-cache-page {16 * 24_576}" in refused.message
    larger = Running(folders, names, kv_cache_page=16 * 24_576, kv_cache_memory=20 * 16 * 24_576)
    assert isinstance(larger.load("wide", "wide"), Loaded)
    assert larger.tokens(ask_for(1, "wide"))[1] == expected["wide"]


def test_memory_that_is_too_short_is_told_before_anything_is_read(
    folders: dict[str, Path], expected: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Running(folders)

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("app.engine.build.available_bytes", lambda: 1000)
    refused = running.load("new", "new")
    assert isinstance(refused, Refused)
    assert (refused.param, "0 are free" in refused.message) == ("path", True)
    monkeypatch.setattr("app.engine.build.available_bytes", lambda: 10**12)
    monkeypatch.setattr("app.engine.build.load_model", fail)
    refused = running.load("new", "new")
    assert isinstance(refused, Refused)
    assert (refused.kind, refused.param) == ("invalid", "path")
    assert running.tokens(ask_for(1, "old"))[1] == expected["old"]


@pytest.mark.parametrize("folder", ["broken", "tales", "nothing"])
def test_a_folder_that_cannot_be_served_changes_nothing(
    folders: dict[str, Path], expected: dict[str, list[int]], tmp_path: Path, folder: str
) -> None:
    running = Running({**folders, "nothing": tmp_path})
    before = running.engine.infos
    refused = running.load("new", folder)
    assert isinstance(refused, Refused)
    assert (refused.kind, refused.param) == ("invalid", "path")
    assert running.engine.infos == before
    assert isinstance(running.load("new", "new"), Loaded)
    assert running.tokens(ask_for(1, "old"), ask_for(2, "new")) == {1: expected["old"], 2: expected["new"]}


def test_a_base_goes_after_its_adapters(folders: dict[str, Path], expected: dict[str, list[int]]) -> None:
    running = Running(folders, adapters=[AdapterSpec("tales", "old", str(folders["tales"]))])
    engine = running.engine
    [refused] = running.ask(Unload(1, "old"))
    assert isinstance(refused, Refused)
    assert (refused.param, "base of tales" in refused.message) == ("name", True)
    engine.add(ask_for(1, "tales"))
    collect(engine, {}, {}, {})
    assert running.ask(Unload(2, "tales")) == []
    assert running.ask(Unload(3, "old")) == []
    tokens: dict[int, list[int]] = {}
    drain(engine, tokens, {})
    assert engine.replies() == [Unloaded(2), Unloaded(3)]
    [refused] = running.ask(LoadAdapter(4, AdapterSpec("tales", "old", str(folders["tales"]))))
    assert isinstance(refused, Refused)
    assert refused.param == "base"


@pytest.mark.parametrize("name", ["nobody", "old:7"])
def test_only_what_is_served_can_be_unloaded(folders: dict[str, Path], name: str) -> None:
    [refused] = Running(folders).ask(Unload(4, name))
    assert isinstance(refused, Refused)
    assert (refused.id, refused.kind, refused.param) == (4, "invalid", "name")


def test_threads_of_a_step_are_those_of_the_start(folders: dict[str, Path]) -> None:
    """A small step has just been done by one thread when the next model comes."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        running = Running(folders, ["old"])
        torch.set_num_threads(1)
        assert isinstance(running.load("new", "new"), Loaded)
        threads = running.engine._runners["new"]._threads
        assert threads is not None
        assert threads._most == 2
    finally:
        torch.set_num_threads(before)


def test_a_config_that_promises_more_than_is_stored_is_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders["new"], tmp_path / "deep")
    raw = json.loads((tmp_path / "deep" / "config.json").read_text())
    (tmp_path / "deep" / "config.json").write_text(json.dumps(raw | {"num_hidden_layers": 3}))
    refused = Running({**folders, "deep": tmp_path / "deep"}).load("deep", "deep")
    assert isinstance(refused, Refused)
    assert "missing" in refused.message
    with pytest.raises(CheckpointError):
        Running({"deep": tmp_path / "deep"}, ["deep"])


def test_what_was_compiled_for_a_model_goes_with_it(tmp_path: Path) -> None:
    running = Running({"bytes": write_folder(tmp_path / "bytes"), "old": tmp_path}, ["bytes"])
    engine = running.engine
    constraint = Constraint("choice", '["yes", "no"]', "choice")
    for number, model in enumerate(("bytes", "bytes:1")):
        assert number == 0 or isinstance(running.load(model, "bytes"), Loaded)
        params = SamplingParams(max_tokens=4, seed=0)
        engine.add(
            GenerateRequest(id=number, model=model, prompt_ids=[70], params=params, constraint=constraint)
        )
        assert running.woken.acquire(timeout=30.0)
        reasons = drain(engine, {}, {})
        assert reasons == {number: "stop"}
    compiler = engine._compiler
    assert {key[0] for key in compiler._kept} == set(compiler._vocabularies) == {"bytes", "bytes:1"}
    assert running.ask(Unload(9, "bytes")) == [Unloaded(9)]
    assert {key[0] for key in compiler._kept} == set(compiler._vocabularies) == {"bytes:1"}
