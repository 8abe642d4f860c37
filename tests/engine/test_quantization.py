"""Quantized models in the engine: adapters on them, the same bits in any batch, and what is refused."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from app.engine.build import build_engine, choose_quantization
from app.engine.engine import Engine
from app.engine.protocol import AdapterSpec, ModelSpec, Quantization, WorkerConfig
from model.adapters import add_adapter, read_adapter, save_adapter
from model.config import CheckpointError
from model.layers.quantized import QuantizedWeight
from model.loading import load_model, save_model
from tests.engine.test_determinism import CONFIGS, answer, folders, make_requests
from tests.model.test_kernels import needs_kernel
from tests.model.test_packing import needs_onednn
from tests.tiny import BERT, LLAMA, random_model

__all__ = ["folders"]  # a fixture


def make_engine(folders: dict[str, Path], quantization: Quantization, deterministic: bool = False) -> Engine:
    return build_engine(
        WorkerConfig(
            models=[ModelSpec(name, str(folders[name]), quantization=quantization) for name in CONFIGS],
            adapters=[AdapterSpec("moods", "bert", str(folders["moods"]))],
            device="cpu",
            dtype="float32",
            deterministic=deterministic,
            kv_cache_memory=4_000_000,
            target_step_ms=0.0,
        ),
        itertools.count(0.0, 0.001).__next__,
    )


@needs_kernel
@needs_onednn
@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_bits_are_the_same_in_any_mixture(folders: dict[str, Path], quantization: Quantization) -> None:
    requests = make_requests()[:21]
    engine = make_engine(folders, quantization, deterministic=True)
    alone = {one.id: answer(engine, [one], itertools.repeat(0)).told[one.id] for one in requests}
    together = answer(make_engine(folders, quantization, deterministic=True), requests, itertools.repeat(0))
    assert together.told == alone


@pytest.mark.parametrize("near_one", ["int8", "fp8"])
def test_labels_of_a_quantized_model_and_of_an_adapter_on_it_are_nearly_the_same(
    folders: dict[str, Path], near_one: Quantization
) -> None:
    requests = [one for one in make_requests() if one.model in ("bert", "moods")]
    exact, near = (
        answer(make_engine(folders, quantization), requests, itertools.repeat(0)).told
        for quantization in ("none", near_one)
    )
    for model in ("bert", "moods"):
        ids = [one.id for one in requests if one.model == model]
        wanted, got = (
            np.concatenate([np.frombuffer(told[i][0], "<f4") for i in ids]) for told in (exact, near)
        )
        assert 1e-4 < np.linalg.norm(got - wanted) / np.linalg.norm(wanted) < 0.15


def test_a_head_over_the_vocabulary_that_comes_later_scores_words_by_codes(tmp_path: Path) -> None:
    save_model(random_model(BERT, dtype=torch.float32, head="none", labels=()), tmp_path / "base")
    base = load_model(tmp_path / "base")
    add_adapter(base, "fill", replace(base.config, head="masked-lm"), rank=2, alpha=2)
    save_adapter(base, "fill", replace(base.config, head="masked-lm"), tmp_path / "fill", "base")
    quantized = load_model(tmp_path / "base", quantization="int8")
    quantized.pack()
    weights = read_adapter(quantized, "fill", tmp_path / "fill")
    assert isinstance(weights.words, QuantizedWeight)
    weights.attach(quantized, "fill")
    hidden = torch.randn(3, BERT.hidden_size)
    with torch.inference_mode():
        torch.testing.assert_close(
            quantized.masked_lm(hidden, "fill"), base.masked_lm(hidden, "fill"), atol=0.1, rtol=0.1
        )


@pytest.mark.parametrize("wanted", ["int8", "fp8"])
def test_what_a_model_was_made_is_told(folders: dict[str, Path], wanted: Quantization) -> None:
    infos = {quantization: make_engine(folders, quantization).infos for quantization in ("none", wanted)}
    for plain, quantized in zip(infos["none"], infos[wanted], strict=True):
        assert (plain.quantization, quantized.quantization) == ("none", wanted)
        assert (quantized.dtype, quantized.parameters) == (plain.dtype, plain.parameters)
        if quantized.base is None:
            assert quantized.bytes < plain.bytes


@pytest.mark.parametrize(
    ("quantization", "dtype", "fault"),
    [
        ("fp8", "float16", "--quantization fp8, model mine: rows of float16 cannot"),
        ("int8", "float16", "--quantization int8, model mine: rows of float16 cannot"),
        ("int4", "float64", "--quantization int4, model mine: rows of float64 cannot"),
    ],
)
def test_what_cannot_be_computed_is_refused_in_words(
    quantization: Quantization, dtype: str, fault: str, tmp_path: Path
) -> None:
    save_model(random_model(LLAMA), tmp_path)
    spec = ModelSpec("mine", str(tmp_path), quantization=quantization)
    with pytest.raises(CheckpointError, match=fault):
        build_engine(WorkerConfig(models=[spec], device="cpu", dtype=dtype))


@pytest.mark.parametrize("quantization", ["int8", "fp8"])
def test_a_gpu_takes_numbers_of_8_bits(quantization: Quantization) -> None:
    spec = ModelSpec("mine", "folder", quantization=quantization)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        assert choose_quantization(spec, torch.device("cuda"), dtype) == quantization
    with pytest.raises(CheckpointError, match="rows of float64"):
        choose_quantization(spec, torch.device("cuda"), torch.float64)
    spec = ModelSpec("mine", "folder", quantization="int4")
    with pytest.raises(CheckpointError, match="on a CPU only; cuda takes int8 and fp8"):
        choose_quantization(spec, torch.device("cuda"), torch.bfloat16)


def test_rows_that_are_not_done_alone_are_refused_where_each_is_to_be(folders: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match=r"--deterministic, model .* depend on the batch"):
        make_engine(folders, "fp8", deterministic=True)
