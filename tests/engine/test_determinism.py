"""With `deterministic`, a request's bits are those it has alone, whatever is computed beside it and in which steps."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.engine import determinism, grouping, threads
from app.engine.build import build_engine
from app.engine.engine import Engine
from app.engine.protocol import (
    AdapterSpec,
    Encoded,
    EncodeRequest,
    GenerateRequest,
    Hypotheses,
    ModelSpec,
    Tokens,
    WorkerConfig,
)
from app.engine.sampling_params import SamplingParams
from model.adapters import add_adapter, save_adapter
from model.config import CheckpointError, TransformerConfig
from model.loading import save_model
from tests.engine import test_decoder_families, test_engine_windows
from tests.engine.test_encoders import DEBERTA
from tests.model.test_kernels import needs_kernel
from tests.model.test_packing import needs_onednn
from tests.tiny import BERT, LLAMA, T5, random_model

pytestmark = [needs_kernel, needs_onednn]

Request = GenerateRequest | EncodeRequest
CONFIGS: dict[str, TransformerConfig] = {
    "llama": LLAMA,
    "t5": T5,
    "bert": BERT,
    "gpt2": test_decoder_families.CONFIGS["gpt2"],
    "gemma": test_engine_windows.CONFIGS["gemma"],
    "modernbert": test_engine_windows.CONFIGS["modernbert"],
}
ENCODERS = ("bert", "moods", "modernbert")
NUM_REQUESTS = 42


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    for name, config in CONFIGS.items():
        save_model(random_model(config), root / name)
    base = random_model(BERT)
    add_adapter(base, "moods", replace(BERT, labels=("glad", "sad")), rank=4, alpha=16.0)
    for name, parameter in base.named_parameters():
        if name.endswith(".up"):
            torch.nn.init.normal_(parameter, std=0.2)
    save_adapter(base, "moods", replace(BERT, labels=("glad", "sad")), root / "moods", "bert")
    return {name: root / name for name in (*CONFIGS, "moods")}


@pytest.fixture(autouse=True)
def _every_step_shares_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Small ones too, where there are several."""
    monkeypatch.setattr(threads, "FEW_OPERATIONS", 0)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def make_engine(folders: dict[str, Path], dtype: str, **changes: Any) -> Engine:
    config: dict[str, Any] = {"deterministic": True, "kv_cache_memory": 4_000_000, "target_step_ms": 0.0}
    return build_engine(
        WorkerConfig(
            models=[ModelSpec(name, str(folders[name])) for name in CONFIGS],
            adapters=[AdapterSpec("moods", "bert", str(folders["moods"]))],
            device="cpu",
            dtype=dtype,
            **config | changes,
        ),
        itertools.count(0.0, 0.001).__next__,
    )


def page_bytes(dtype: str) -> int:
    """As long as a block of the T5's, which has the most to keep for a position."""
    return 16 * 3 * 2 * T5.num_kv_heads * T5.head_dim * (4 if dtype == "float32" else 2)


def make_requests() -> list[Request]:
    """Of every kind and length; texts of a model share their beginnings, and some prompts repeat themselves."""
    source = random.Random(5)
    shared = [source.randrange(3, 96) for _ in range(64)]
    ways: list[dict[str, Any]] = [
        {},
        {"temperature": 0.9, "top_p": 0.9},
        {"num_beams": 3},
        {"temperature": 1.2, "top_k": 7, "repetition_penalty": 1.3},
        {"prompt_logprobs": 2},
    ]
    made: list[Request] = []
    for number in range(NUM_REQUESTS):
        model = [*CONFIGS, "moods"][number % 7]
        ids = [source.randrange(3, 96) for _ in range(source.randint(1, 30))]
        if model in ENCODERS:
            made.append(EncodeRequest(id=number, model=model, ids=ids[: 1 + number], output="class"))
            continue
        way = ways[source.randrange(len(ways))]
        if model == "t5":
            way = {name: value for name, value in way.items() if name != "prompt_logprobs"}
        ids = source.choice([ids, shared + ids[:8], ids[:3] * 8])
        params = SamplingParams(
            max_tokens=source.randint(4, 45), ignore_eos=True, logprobs=3, seed=number, **way
        )
        made.append(GenerateRequest(id=number, model=model, prompt_ids=ids, params=params))
    return made


@dataclass
class Answers:
    """What each request was told so far, to the last bit, and how often the engine had to preempt and draft."""

    told: dict[int, list[Any]]
    num_preemptions: int = 0
    num_accepted: int = 0
    num_cached: int = 0

    def step(self, engine: Engine) -> None:
        done = engine.step()
        for output in done.outputs:
            told = self.told.setdefault(output.id, [])
            if isinstance(output, Tokens):
                told += zip(output.token_ids, output.logprobs or [], strict=True)
                told += output.prompt_logprobs or []
                self.num_cached += output.cached_tokens
            elif isinstance(output, Hypotheses):
                told += output.best
            else:
                assert isinstance(output, Encoded)
                told.append(output.data)
        if done.report is not None:
            self.num_preemptions += done.report.preemptions
            self.num_accepted += done.report.accepted_tokens


def answer(engine: Engine, requests: list[Request], gaps: Iterator[int]) -> Answers:
    """Before each request comes, so many steps are done as `gaps` says next."""
    answers = Answers({})
    for request in requests:
        for _ in range(next(gaps)):
            if engine.has_work:
                answers.step(engine)
        engine.add(request)
    while engine.has_work:
        answers.step(engine)
    return answers


@dataclass(frozen=True)
class Alone:
    """What each request is told when it has the engine for itself."""

    dtype: str
    told: dict[int, list[Any]] = field(repr=False)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def alone(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Alone:
    engine = make_engine(folders, request.param, prefix_cache=False, speculation=False)
    told: dict[int, list[Any]] = {}
    for one in make_requests():
        told |= answer(engine, [one], itertools.repeat(0)).told
    return Alone(request.param, told)


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(range(NUM_REQUESTS)),
    count=st.integers(2, NUM_REQUESTS),
    gaps=st.lists(st.integers(0, 6), min_size=1, max_size=8),
    budget=st.sampled_from([5, 16, 61, 2048]),
    num_pages=st.sampled_from([22, 400]),
    num_threads=st.sampled_from([1, 2]),
)
def test_bits_are_the_same_in_any_mixture(
    alone: Alone,
    folders: dict[str, Path],
    order: list[int],
    count: int,
    gaps: list[int],
    budget: int,
    num_pages: int,
    num_threads: int,
) -> None:
    torch.set_num_threads(num_threads)
    engine = make_engine(
        folders, alone.dtype, token_budget=budget, kv_cache_memory=num_pages * page_bytes(alone.dtype)
    )
    requests = make_requests()
    got = answer(engine, [requests[i] for i in order[:count]], itertools.cycle(gaps)).told
    assert [i for i in order[:count] if got[i] != alone.told[i]] == []


def test_bits_survive_prefix_hits_and_drafts(alone: Alone, folders: dict[str, Path]) -> None:
    """The mixture holds both."""
    memory = 30 * page_bytes(alone.dtype)
    engine = make_engine(folders, alone.dtype, token_budget=48, kv_cache_memory=memory)
    got = answer(engine, make_requests(), itertools.repeat(0))
    assert got.told == alone.told
    assert min(got.num_cached, got.num_accepted) > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bits_survive_preemption(folders: dict[str, Path], dtype: str) -> None:
    source = random.Random(2)
    requests: list[Request] = []
    for number in range(12):
        prompt = [source.randrange(3, 96) for _ in range(source.randint(10, 40))]
        params = SamplingParams(
            max_tokens=70, ignore_eos=True, logprobs=0, temperature=number % 2, seed=number
        )
        model = ("llama", "t5", "gpt2")[number % 3]
        requests.append(GenerateRequest(id=number, model=model, prompt_ids=prompt, params=params))
    crowded = make_engine(folders, dtype, kv_cache_memory=10 * page_bytes(dtype), token_budget=48)
    got = answer(crowded, requests, itertools.repeat(0))
    quiet = make_engine(folders, dtype)
    for request in requests:
        assert answer(quiet, [request], itertools.repeat(0)).told[request.id] == got.told[request.id]
    assert got.num_preemptions > 0


def test_without_it_bits_depend_on_the_mixture(
    alone: Alone, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the tests above could not fail. Prompts as short as these are read in place unless that costs more; encodes
    always are."""
    monkeypatch.setattr(grouping, "IN_PLACE_PAIRS", 64)
    engine = make_engine(folders, alone.dtype, deterministic=False, token_budget=61)
    got = answer(engine, make_requests(), itertools.repeat(0)).told
    differing = {make_requests()[i].model for i in got if got[i] != alone.told[i]}
    assert "llama" in differing


@pytest.mark.parametrize(
    ("config", "dtype", "fault"),
    [
        (LLAMA, "float16", "float16 cannot"),
        (LLAMA, "float64", "float64 cannot"),
        (DEBERTA, "float32", "scores against"),
    ],
)
def test_what_cannot_be_computed_so_is_refused_in_words(
    config: TransformerConfig, dtype: str, fault: str, tmp_path: Path
) -> None:
    save_model(random_model(config), tmp_path)
    spec = ModelSpec("mine", str(tmp_path))
    with pytest.raises(CheckpointError, match=f"--deterministic, model mine: {fault}"):
        build_engine(WorkerConfig(models=[spec], device="cpu", dtype=dtype, deterministic=True))


def test_a_product_that_varies_is_refused(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("model.layers.packed.PackedWeight.varies", lambda weight: True)
    with pytest.raises(CheckpointError, match="on this processor the bits of a product of"):
        make_engine(folders, "float32")


def test_a_function_that_varies_is_refused(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(determinism, "FUNCTIONS", {"ends": lambda x: x + (x == x[-1])})
    with pytest.raises(CheckpointError, match="on this processor the bits of its ends depend on the batch"):
        make_engine(folders, "float32")
