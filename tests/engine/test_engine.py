"""The engine against the plain loop: the same tokens under any mixture, and nothing left behind."""

import itertools
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from app.engine.admission import RequestError
from app.engine.build import build_engine
from app.engine.engine import Engine
from app.engine.protocol import (
    AdapterSpec,
    Encoded,
    EncodeRequest,
    Failed,
    GenerateRequest,
    ModelSpec,
    StepOutputs,
    Tokens,
    WorkerConfig,
)
from app.engine.sampling_params import SamplingParams
from model.adapters import add_adapter, save_adapter
from model.config import TransformerConfig
from model.greedy import generate_greedy
from model.loading import load_model, save_model
from tests.tiny import BERT, LLAMA, T5, random_model

CONFIGS = {"llama": LLAMA, "t5": T5, "bert": BERT}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    for name, config in CONFIGS.items():
        save_model(random_model(config), root / name)
    return {name: root / name for name in CONFIGS}


def make_engine(
    folders: dict[str, Path],
    adapters: list[AdapterSpec] | None = None,
    kv_cache_memory: int = 2_000_000,
    token_budget: int = 64,
    dtype: str = "float64",
    target_step_ms: float = 0.0,
    clock: Callable[[], float] | None = None,
    speculation: bool = False,
    kv_cache_dtype: str = "auto",
) -> Engine:
    return build_engine(
        WorkerConfig(
            models=[ModelSpec(name, str(folder)) for name, folder in folders.items()],
            adapters=adapters or [],
            device="cpu",
            dtype=dtype,
            kv_cache_dtype=kv_cache_dtype,
            kv_cache_memory=kv_cache_memory,
            token_budget=token_budget,
            target_step_ms=target_step_ms,
            speculation=speculation,
        ),
        # Each step takes as long as any other, so that models take turns the same way in every run.
        clock or itertools.count(0.0, 0.001).__next__,
    )


def greedy(
    request_id: int, model: str, prompt: list[int], count: int, ignore_eos: bool = False
) -> GenerateRequest:
    params = SamplingParams(max_tokens=count, seed=0, ignore_eos=ignore_eos)
    return GenerateRequest(id=request_id, model=model, prompt_ids=prompt, params=params)


def drain(engine: Engine, tokens: dict[int, list[int]], encoded: dict[int, Encoded]) -> dict[int, str]:
    """Steps until nothing is left; returns the finish reasons."""
    reasons: dict[int, str] = {}
    while engine.has_work:
        collect(engine, tokens, encoded, reasons)
    return reasons


def collect(
    engine: Engine, tokens: dict[int, list[int]], encoded: dict[int, Encoded], reasons: dict[int, str]
) -> StepOutputs:
    step = engine.step()
    for output in step.outputs:
        if isinstance(output, Tokens):
            tokens.setdefault(output.id, []).extend(output.token_ids)
            if output.finish_reason is not None:
                assert output.id not in reasons, "a sequence ends once"
                reasons[output.id] = output.finish_reason
        elif isinstance(output, Encoded):
            assert output.id not in encoded
            encoded[output.id] = output
    return step


def num_free(engine: Engine) -> int:
    return engine._blocks.num_free


def random_ids(source: random.Random, longest: int) -> list[int]:
    return [source.randrange(3, 96) for _ in range(source.randint(1, longest))]


@pytest.mark.parametrize(
    ("seed", "cache_bytes", "budget", "longest"),
    [(0, 2_000_000, 64, 30), (1, 2_000_000, 8, 30), (2, 300_000, 64, 80)],
)
def test_random_arrivals_of_three_kinds_give_the_plain_loops_tokens(
    folders: dict[str, Path], seed: int, cache_bytes: int, budget: int, longest: int
) -> None:
    """Ample cache, small budget, and a cache so small that sequences are preempted."""
    source = random.Random(seed)
    engine = make_engine(folders, kv_cache_memory=cache_bytes, token_budget=budget)
    all_free = num_free(engine)
    requests: list[GenerateRequest | EncodeRequest] = []
    for i in range(30):
        model = source.choice(["llama", "t5", "bert"])
        if model == "bert":
            requests.append(EncodeRequest(id=i, model=model, ids=random_ids(source, 60), output="class"))
        else:
            requests.append(greedy(i, model, random_ids(source, 40), source.randint(1, longest)))
    tokens: dict[int, list[int]] = {}
    encoded: dict[int, Encoded] = {}
    reasons: dict[int, str] = {}
    preemptions = 0
    waiting = list(requests)
    while waiting or engine.has_work:
        for _ in range(source.randint(0, 8)):
            if waiting:
                engine.add(waiting.pop(0))
        outputs = engine.step()
        preemptions += outputs.report.preemptions if outputs.report else 0
        for output in outputs.outputs:
            if isinstance(output, Tokens):
                tokens.setdefault(output.id, []).extend(output.token_ids)
                if output.finish_reason is not None:
                    reasons[output.id] = output.finish_reason
            elif isinstance(output, Encoded):
                encoded[output.id] = output
    assert num_free(engine) == all_free
    assert (preemptions > 0) == (cache_bytes < 1_000_000)
    plain = {name: load_model(folder) for name, folder in folders.items()}
    for request in requests:
        if isinstance(request, EncodeRequest):
            hidden = plain["bert"].encode_padded(
                torch.tensor([request.ids]), torch.ones(1, len(request.ids), dtype=torch.bool)
            )
            wanted = plain["bert"].classify(hidden[:, 0])[0].float()
            assert numbers(encoded[request.id]) == pytest.approx(wanted.tolist(), abs=1e-5)
        else:
            expected = generate_greedy(plain[request.model], [request.prompt_ids], request.params.max_tokens)[
                0
            ]
            assert tokens[request.id] == expected, request
            is_whole = len(expected) == request.params.max_tokens
            assert reasons[request.id] == ("length" if is_whole else "stop")


def numbers(encoded: Encoded) -> list[float]:
    return list(struct.unpack(f"<{len(encoded.data) // 4}f", encoded.data))


@pytest.mark.parametrize("model", ["llama", "t5"])
def test_abort_frees_blocks_and_leaves_the_others_alone(folders: dict[str, Path], model: str) -> None:
    engine = make_engine({model: folders[model]})
    all_free = num_free(engine)
    for i in range(6):
        engine.add(greedy(i, model, [5 + i, 9, 11], 20, ignore_eos=True))
    tokens: dict[int, list[int]] = {}
    for _ in range(3):
        collect(engine, tokens, {}, {})
    held = all_free - num_free(engine)
    engine.abort([0, 2, 4, 999])
    assert num_free(engine) == all_free - held // 2
    reasons = drain(engine, tokens, {})
    assert set(reasons) == {1, 3, 5}
    assert num_free(engine) == all_free
    plain = load_model(folders[model])
    assert tokens[3] == generate_greedy(plain, [[8, 9, 11]], 20, ignore_eos=True)[0]


def test_a_waiting_sequence_can_be_aborted_before_it_ever_runs(folders: dict[str, Path]) -> None:
    engine = make_engine({"llama": folders["llama"]})
    engine.add(greedy(1, "llama", [5], 5))
    engine.abort([1])
    assert not engine.has_work
    assert engine.step().outputs == []


def test_adapters_share_a_step_and_each_row_goes_through_its_own(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    adapters = []
    for seed, name in enumerate(("first", "second")):
        model = load_model(folders["bert"])
        torch.manual_seed(seed + 7)
        config = TransformerConfig(**{**vars(BERT), "labels": tuple("abcd"[: seed + 2])})
        for parameter in add_adapter(model, name, config, rank=4, alpha=8):
            parameter.data.normal_(std=0.3)
        save_adapter(model, name, config, tmp_path / name, "bert")
        adapters.append(AdapterSpec(name, "bert", str(tmp_path / name)))
    alone = {a.name: make_engine({"bert": folders["bert"]}, [a]) for a in adapters}
    together = make_engine({"bert": folders["bert"]}, adapters)
    requests = [
        EncodeRequest(id=i, model=("first", "second", "bert")[i % 3], ids=[3 + i, 7, 9 + i], output="class")
        for i in range(9)
    ]
    for request in requests:
        together.add(request)
    step = together.step()
    assert len(step.outputs) == 9, "all in one step"
    got = {o.id: numbers(o) for o in step.outputs if isinstance(o, Encoded)}
    for request in requests:
        engine = alone.get(request.model) or alone["first"]
        engine.add(request)
        encoded: dict[int, Encoded] = {}
        drain(engine, {}, encoded)
        assert got[request.id] == pytest.approx(numbers(encoded[request.id]), abs=1e-6)
    assert [len(got[i]) for i in range(3)] == [2, 3, 3]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (greedy(1, "nobody", [5], 5), "unknown model"),
        (greedy(1, "bert", [5], 5), "generates nothing"),
        (greedy(1, "llama", [], 5), "0 prompt tokens"),
        (greedy(1, "llama", [5] * 129, 5), "129 prompt tokens"),
        (greedy(1, "llama", [5] * 128, 5), "no room"),
        (EncodeRequest(id=1, model="bert", ids=[5] * 65, output="class"), "65 tokens"),
        (EncodeRequest(id=1, model="bert", ids=[5], output="span"), "no output 'span'"),
        (EncodeRequest(id=1, model="llama", ids=[5], output="embedding"), "no output 'embedding'"),
    ],
)
def test_a_request_that_can_never_be_served_is_refused(
    folders: dict[str, Path], request_: GenerateRequest | EncodeRequest, message: str
) -> None:
    engine = make_engine(folders)
    with pytest.raises(RequestError, match=message):
        engine.add(request_)
    assert not engine.has_work


def test_a_request_larger_than_the_whole_cache_is_refused(folders: dict[str, Path]) -> None:
    engine = make_engine({"llama": folders["llama"]}, kv_cache_memory=30_000)
    with pytest.raises(RequestError, match="the cache holds"):
        engine.add(greedy(1, "llama", [5] * 60, 60))


def test_a_model_s_weight_reaches_the_scheduler(folders: dict[str, Path]) -> None:
    models = [ModelSpec(name, str(folder), 1.0 + i) for i, (name, folder) in enumerate(folders.items())]
    engine = build_engine(WorkerConfig(models=models, device="cpu", kv_cache_memory=1_000_000))
    assert {name: lane.weight for name, lane in engine._scheduler.lanes.ordinary.items()} == {
        spec.name: spec.weight for spec in models
    }


def test_models_take_turns_by_the_time_each_has_had(folders: dict[str, Path]) -> None:
    engine = make_engine({name: folders[name] for name in ("llama", "t5")})
    for i in range(4):
        engine.add(greedy(i, "llama" if i % 2 else "t5", [5], 60, ignore_eos=True))
    stepped = [report.model for _ in range(40) if (report := engine.step().report)]
    assert 5 <= stepped.count("llama") <= 35


def test_a_fault_in_a_step_fails_its_sequences_and_nobody_elses(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make_engine({name: folders[name] for name in ("llama", "t5")})
    all_free = num_free(engine)
    engine.add(greedy(1, "llama", [5, 6], 4, ignore_eos=True))
    engine.add(greedy(2, "t5", [5, 6], 4, ignore_eos=True))

    def broken(*_: object) -> None:
        raise RuntimeError("seeded fault")

    monkeypatch.setattr(engine._runners["llama"], "run", broken)
    outputs = [output for _ in range(8) for output in engine.step().outputs]
    assert [(o.id, o.kind) for o in outputs if isinstance(o, Failed)] == [(1, "internal")]
    assert sum(len(o.token_ids) for o in outputs if isinstance(o, Tokens) and o.id == 2) == 4
    assert "seeded fault" in caplog.text
    assert not engine.has_work
    assert num_free(engine) == all_free
