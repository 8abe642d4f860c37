"""Recorded decode steps, and a GPU's attention in tiles: the answers of steps that are computed as they come."""

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from app.engine import kv_cache, runner
from app.engine.build import build_engine
from app.engine.engine import Engine
from app.engine.graphs import Graph, bucket_sizes, can_record
from app.engine.grouping import InTiles, cut_tiles
from app.engine.protocol import GenerateRequest, ModelSpec, Tokens, WorkerConfig
from app.engine.sampling_params import SamplingParams
from model.config import TransformerConfig
from model.kernels.paged import attend
from model.loading import save_model
from tests.engine.test_decoder_families import CONFIGS
from tests.engine.test_engine import random_ids
from tests.engine.test_engine_windows import GEMMA, MISTRAL
from tests.model.test_kernels import needs_kernel
from tests.tiny import LLAMA, T5, random_model

FAMILIES = {"llama": LLAMA, "mistral": MISTRAL, "gemma3": GEMMA, "gpt2": CONFIGS["gpt2"], "t5": T5}
needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="Triton is not installed (make test-triton)"
)


@dataclass
class Rerun:
    """A graph that computes its function again, into the output that it had."""

    work: Callable[[], Tensor]
    output: Tensor
    num_replays: int = 0

    def replay(self) -> None:
        self.num_replays += 1
        self.output.copy_(self.work())


@dataclass
class Recorder:
    """A `Capture` without a device."""

    made: list[Rerun] = field(default_factory=list)

    def __call__(self, work: Callable[[], Tensor]) -> tuple[Graph, Tensor]:
        with torch.inference_mode():
            graph = Rerun(work, work().clone())
        self.made.append(graph)
        return graph, graph.output


def make_engine(
    folder: Path, capture: Recorder | None, speculation: bool = False, is_on: bool = True
) -> Engine:
    return build_engine(
        WorkerConfig(
            models=[ModelSpec("m", str(folder))],
            device="cpu",
            dtype="float32",
            kv_cache_memory=400_000,
            token_budget=64,
            max_num_seqs=12,
            target_step_ms=0.0,
            speculation=speculation,
            cuda_graphs=is_on,
        ),
        itertools.count(0.0, 0.001).__next__,
        capture=capture,
    )


def answers(
    engine: Engine, config: TransformerConfig, num_prompts: int = 14, max_tokens: int = 12
) -> list[list[tuple[int, float]]]:
    """Of each prompt its tokens and their log-probabilities; one prompt more arrives every other step."""
    source = random.Random(3)
    second = 7 if config.kind == "encoder-decoder" else None  # its decoder begins with two tokens
    params = SamplingParams(max_tokens=max_tokens, logprobs=0, ignore_eos=True, forced_bos_token=second)
    waiting = [
        GenerateRequest(id=i, model="m", prompt_ids=random_ids(source, 40), params=params)
        for i in range(num_prompts)
    ]
    found: list[list[tuple[int, float]]] = [[] for _ in waiting]
    for turn in itertools.count():
        if waiting and turn % 2 == 0:
            engine.add(waiting.pop(0))
        if not (waiting or engine.has_work):
            return found
        for output in engine.step().outputs:
            assert isinstance(output, Tokens)
            told = [one.logprob for one in output.logprobs or []]
            found[output.id] += zip(output.token_ids, told, strict=True)
    raise AssertionError


def check_same(got: list[list[tuple[int, float]]], wanted: list[list[tuple[int, float]]]) -> None:
    for mine, theirs in zip(got, wanted, strict=True):
        assert [token for token, _ in mine] == [token for token, _ in theirs]
        assert [one for _, one in mine] == pytest.approx([one for _, one in theirs], abs=1e-3)


@needs_kernel
@pytest.mark.parametrize("name", list(FAMILIES))
@pytest.mark.parametrize("speculation", [False, True])
def test_padded_replays_give_what_steps_of_their_own_size_give(
    name: str, speculation: bool, tmp_path: Path
) -> None:
    config, recorder = FAMILIES[name], Recorder()
    save_model(random_model(config, dtype=torch.float32), tmp_path)
    engine = make_engine(tmp_path, recorder, speculation)
    assert len(recorder.made) == 5, "one for each of 1, 2, 4, 8 and 16 rows"
    got = answers(engine, config)
    check_same(got, answers(make_engine(tmp_path, None, speculation), config))
    assert sum(graph.num_replays > 0 for graph in recorder.made) >= 3
    assert speculation or recorder.made[-1].num_replays, "a text that is alone has no padding beside it"
    assert engine._blocks.num_free == engine._blocks.num_blocks


@needs_triton
@pytest.mark.parametrize("name", ["mistral", "t5"])
@pytest.mark.parametrize("has_graphs", [False, True])
def test_tiles_give_what_dense_groups_give(
    name: str, has_graphs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts in pieces, drafts and single tokens, each in the tiles of one kernel."""
    config, recorder = FAMILIES[name], Recorder()
    save_model(random_model(config, dtype=torch.float32), tmp_path)
    few = 5, 7  # the interpreter takes its time
    wanted = answers(make_engine(tmp_path, None, speculation=True), config, *few)
    monkeypatch.setattr(runner, "can_attend", lambda *_: True)
    monkeypatch.setattr(kv_cache, "tile_attention", attend)
    engine = make_engine(tmp_path, recorder if has_graphs else None, speculation=True)
    assert engine._runners["m"].grouping == InTiles(16)
    check_same(answers(engine, config, *few), wanted)
    assert any(graph.num_replays for graph in recorder.made) == has_graphs


@needs_kernel
def test_nothing_is_recorded_where_it_is_off_or_fails(tmp_path: Path) -> None:
    save_model(random_model(LLAMA, dtype=torch.float32), tmp_path)
    off = Recorder()
    make_engine(tmp_path, off, is_on=False)
    assert not off.made

    class Failing(Recorder):
        def __call__(self, work: Callable[[], Tensor]) -> tuple[Graph, Tensor]:
            if len(self.made) == 2:
                raise torch.OutOfMemoryError("no room")
            return super().__call__(work)

    failing = Failing()
    check_same(answers(make_engine(tmp_path, failing), LLAMA), answers(make_engine(tmp_path, None), LLAMA))
    assert len(failing.made) == 2
    assert not any(graph.num_replays for graph in failing.made)


def test_sizes_are_powers_of_two_that_hold_the_largest_step() -> None:
    assert bucket_sizes(1) == [1]
    assert bucket_sizes(12) == [1, 2, 4, 8, 16]
    assert bucket_sizes(4096)[-1] == 256


def test_angles_that_ask_for_the_longest_sequence_are_not_recorded() -> None:
    assert can_record(random_model(LLAMA))
    assert not can_record(random_model(CONFIGS["dynamic"]))


def test_tiles_hold_each_row_once_and_no_two_sequences() -> None:
    assert cut_tiles([1, 5, 16, 17], 16) == [(0, 1), (1, 5), (6, 16), (22, 16), (38, 1)]
    assert cut_tiles([2, 1], 1) == [(0, 1), (1, 1), (2, 1)]
