"""Adapters that come and go while a real engine runs: nothing stops, nobody's tokens change, weights are freed."""

import gc
import shutil
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.engine.admission import RequestError
from app.engine.engine import Engine
from app.engine.protocol import AdapterSpec, Constraint, GenerateRequest
from app.engine.questions import (
    LoadAdapter,
    Loaded,
    Question,
    Refused,
    Reply,
    Unload,
    Unloaded,
)
from app.engine.sampling_params import SamplingParams
from model.adapters import add_adapter, read_adapter, save_adapter
from model.layers.linear import LowRank
from model.loading import load_model, save_model
from tests.engine.test_engine import collect, drain, greedy, make_engine
from tests.tiny import BERT, LLAMA, random_model

PROMPT = [5, 6, 7, 8] * 10


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models, two adapters of the first, one of the second."""
    root = tmp_path_factory.mktemp("checkpoints")
    for name, config in {"llama": LLAMA, "bert": BERT}.items():
        save_model(random_model(config), root / name)
    for seed, (name, base) in enumerate({"one": "llama", "two": "llama", "reviews": "bert"}.items()):
        write_adapter(root / name, root / base, seed)
    return {name: root / name for name in ("llama", "bert", "one", "two", "reviews")}


def write_adapter(folder: Path, base: Path, seed: int) -> None:
    model = load_model(base)
    torch.manual_seed(seed)
    for parameter in add_adapter(model, "some", model.config, rank=4, alpha=8):
        parameter.data.normal_(std=0.3)
    save_adapter(model, "some", model.config, folder, base.name)


class Running:
    """An engine, and what its threads have woken it for."""

    def __init__(self, folders: dict[str, Path], adapters: Sequence[AdapterSpec] = ()) -> None:
        models = {name: folders[name] for name in ("llama", "bert")}
        self.engine = make_engine(models, list(adapters))
        self._woken = threading.Semaphore(0)
        self.engine.when_ready(self._woken.release)

    def wait_for_thread(self) -> None:
        assert self._woken.acquire(timeout=30.0)

    def ask(self, question: Question) -> list[Reply]:
        self.engine.ask(question)
        return self.engine.replies()

    def load(self, number: int, adapter: AdapterSpec) -> Reply:
        """Waits for the thread."""
        replies = self.ask(LoadAdapter(number, adapter))
        while not replies:
            self.wait_for_thread()
            replies = self.engine.replies()
        [reply] = replies
        return reply


def tokens_of(engine: Engine, *requests: GenerateRequest) -> dict[int, list[int]]:
    for request in requests:
        engine.add(request)
    tokens: dict[int, list[int]] = {}
    drain(engine, tokens, {})
    return tokens


def ask_for(number: int, model: str, count: int = 12, prompt: Sequence[int] = PROMPT) -> GenerateRequest:
    return greedy(number, model, list(prompt), count, ignore_eos=True)


@pytest.fixture(scope="module")
def expected(folders: dict[str, Path]) -> dict[str, list[int]]:
    """The tokens of each name, from engines that had their adapters when they started."""
    specs = [AdapterSpec(name, "llama", str(folders[name])) for name in ("one", "two")]
    found = {"llama": tokens_of(Running(folders).engine, ask_for(1, "llama"))[1]}
    for spec in specs:
        found[spec.name] = tokens_of(Running(folders, [spec]).engine, ask_for(1, spec.name))[1]
    assert len({tuple(tokens) for tokens in found.values()}) == 3, "they all differ"
    return found


class Held:
    """Reading an adapter begins, and goes on when `released`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began, self.released = threading.Semaphore(0), threading.Semaphore(0)
        monkeypatch.setattr("app.engine.adapters.read_adapter", self._read)

    def _read(self, *arguments: Any) -> Any:
        self.began.release()
        assert self.released.acquire(timeout=30.0)
        return read_adapter(*arguments)


def test_steps_go_on_while_adapters_are_read_and_then_all_share_one(
    folders: dict[str, Path], expected: dict[str, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    held, running = Held(monkeypatch), Running(folders)
    engine = running.engine
    tokens: dict[int, list[int]] = {}
    engine.add(ask_for(1, "llama"))
    for number, name in enumerate(("one", "two")):
        assert running.ask(LoadAdapter(number, AdapterSpec(name, "llama", str(folders[name])))) == []
    assert held.began.acquire(timeout=30.0)
    drain(engine, tokens, {})
    assert tokens[1] == expected["llama"], "while the first was being read"
    with pytest.raises(RequestError, match="unknown model"):
        engine.add(ask_for(2, "one"))
    names = []
    for _ in range(2):
        assert engine.replies() == []
        held.released.release()
        running.wait_for_thread()
        [reply] = engine.replies()
        assert isinstance(reply, Loaded)
        names.append(reply.info.name)
    assert names == ["one", "two"], "one after the other"
    for number, name in enumerate(("one", "llama", "two", "one"), 10):
        engine.add(ask_for(number, name))
    sizes = []
    while engine.has_work:
        sizes.append(len(collect(engine, tokens, {}, {}).outputs))
    assert max(sizes) == 4, "one step has them all"
    assert [tokens[number] for number in range(10, 14)] == [
        expected[name] for name in ("one", "llama", "two", "one")
    ]


def test_an_adapter_is_told_as_it_would_be_at_the_start(folders: dict[str, Path]) -> None:
    spec = AdapterSpec("one", "llama", str(folders["one"]))
    at_start = {info.name: info for info in Running(folders, [spec]).engine.infos}
    running = Running(folders)
    reply = running.load(3, spec)
    assert isinstance(reply, Loaded)
    assert reply.id == 3
    assert reply.info.load_seconds > 0.0
    fields = ("name", "base", "kind", "parameters", "bytes", "num_blocks", "block_size", "max_model_len")
    assert [getattr(reply.info, f) for f in fields] == [getattr(at_start["one"], f) for f in fields]
    assert reply.info.num_blocks == at_start["llama"].num_blocks > 0
    assert reply.info in running.engine.infos


def test_an_unloaded_adapter_ends_what_it_began_while_another_takes_its_name(
    folders: dict[str, Path], expected: dict[str, list[int]]
) -> None:
    running = Running(folders, [AdapterSpec("mine", "llama", str(folders["one"]))])
    engine = running.engine
    updates = [weakref.ref(m) for m in engine._runners["llama"].model.modules() if isinstance(m, LowRank)]
    assert updates
    tokens: dict[int, list[int]] = {}
    engine.add(ask_for(1, "mine"))
    collect(engine, tokens, {}, {})
    assert running.ask(Unload(1, "mine")) == []
    with pytest.raises(RequestError, match="unknown model"):
        engine.add(ask_for(2, "mine"))
    reply = running.load(2, AdapterSpec("mine", "llama", str(folders["two"])))
    assert isinstance(reply, Loaded)
    engine.add(ask_for(3, "mine"))  # the same prompt, whose blocks must not be taken for its own
    drain(engine, tokens, {})
    assert (tokens[1], tokens[3]) == (expected["one"], expected["two"])
    assert engine.replies() == [Unloaded(1)]
    gc.collect()
    assert [update() for update in updates] == [None] * len(updates), "its weights are freed"
    assert tokens_of(engine, ask_for(4, "mine"))[4] == expected["two"]


def test_an_idle_adapter_goes_at_once_and_one_with_a_head_can_come_back(folders: dict[str, Path]) -> None:
    running = Running(folders)
    spec = AdapterSpec("reviews", "bert", str(folders["reviews"]))
    for number in range(3):
        assert isinstance(running.load(number, spec), Loaded)
        assert running.ask(Unload(number, "reviews")) == [Unloaded(number)]
    assert [info.name for info in running.engine.infos] == ["llama", "bert"]
    assert list(running.engine._runners["bert"].model.heads) == ["own"]


def test_what_waits_for_its_constraint_is_waited_for(folders: dict[str, Path]) -> None:
    running = Running(folders, [AdapterSpec("one", "llama", str(folders["one"]))])
    request = GenerateRequest(
        id=1,
        model="one",
        prompt_ids=[5],
        params=SamplingParams(max_tokens=4),
        constraint=Constraint("regex", "a+", "regex"),
    )
    running.engine.add(request)
    assert running.ask(Unload(1, "one")) == []
    running.engine.abort([1])
    assert running.engine.replies() == [Unloaded(1)]


@pytest.mark.parametrize(
    ("spec", "param", "message"),
    [
        (AdapterSpec("taken", "llama", "one"), "name", "taken"),
        (AdapterSpec("bert", "llama", "one"), "name", "taken"),
        (AdapterSpec("new", "nobody", "one"), "base", "no model 'nobody'"),
        (AdapterSpec("new", "taken", "one"), "base", "no model 'taken'"),
        (AdapterSpec("new", "llama", "missing"), "path", "adapter_config.json"),
        (AdapterSpec("new", "bert", "one"), "path", ""),
        (AdapterSpec("new", "llama", "broken"), "path", "lora_A and lora_B do not fit"),
        (AdapterSpec("a.b", "llama", "one"), "path", "letters, digits"),
    ],
    ids=str,
)
def test_what_cannot_be_served_is_refused_in_words_and_changes_nothing(
    folders: dict[str, Path],
    expected: dict[str, list[int]],
    tmp_path: Path,
    spec: AdapterSpec,
    param: str,
    message: str,
) -> None:
    shutil.copytree(folders["one"], tmp_path / "one")
    shutil.copytree(folders["one"], tmp_path / "broken")
    weights = load_file(tmp_path / "broken" / "adapter_model.safetensors")
    first = next(iter(weights))
    weights[first] = weights[first][:, :-1].contiguous()
    save_file(weights, tmp_path / "broken" / "adapter_model.safetensors")
    running = Running(folders, [AdapterSpec("taken", "llama", str(folders["one"]))])
    before = running.engine.infos
    reply = running.load(5, AdapterSpec(spec.name, spec.base, str(tmp_path / spec.path)))
    assert isinstance(reply, Refused)
    assert (reply.id, reply.kind, reply.param) == (5, "invalid", param)
    assert message in reply.message
    assert running.engine.infos == before
    good = running.load(6, AdapterSpec("two", "llama", str(folders["two"])))
    assert isinstance(good, Loaded)
    found = tokens_of(running.engine, *(ask_for(n, m) for n, m in enumerate(("two", "llama", "taken"))))
    assert found == {0: expected["two"], 1: expected["llama"], 2: expected["one"]}


def test_a_name_is_taken_while_its_adapter_is_read(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    held, running = Held(monkeypatch), Running(folders)
    for number, name in enumerate(("one", "two")):
        assert running.ask(LoadAdapter(number, AdapterSpec(name, "llama", str(folders[name])))) == []
    for number, name in enumerate(("one", "two"), 5):
        [refused] = running.ask(LoadAdapter(number, AdapterSpec(name, "llama", str(folders[name]))))
        assert isinstance(refused, Refused)
        assert (refused.id, refused.param) == (number, "name")
    for _ in range(2):
        held.released.release()
        running.wait_for_thread()
        assert len(running.engine.replies()) == 1


def test_a_fault_of_ours_is_told_and_the_next_adapter_is_read(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    running, spec = Running(folders), AdapterSpec("one", "llama", str(folders["one"]))
    with monkeypatch.context() as patch:
        patch.setattr("app.engine.adapters.read_adapter", None)
        reply = running.load(1, spec)
    assert isinstance(reply, Refused)
    assert (reply.kind, reply.param) == ("internal", None)
    assert "could not be read" in caplog.text
    assert isinstance(running.load(2, spec), Loaded)
