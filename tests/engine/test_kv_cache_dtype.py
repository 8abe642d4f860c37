"""What keys and values are kept in: chosen, refused, told; and answers from a cache of bfloat16."""

import random
from pathlib import Path

import pytest
import torch

from app.engine.build import build_engine, choose_cache_dtype
from app.engine.protocol import ModelSpec, Quantization, WorkerConfig
from app.engine.sampling_params import SamplingParams
from model import kernels
from model.config import CheckpointError, TransformerConfig
from model.loading import save_model
from tests.engine.test_engine import make_engine, random_ids
from tests.engine.test_in_place import logprobs_of
from tests.model.test_kernels import needs_kernel
from tests.tiny import BERT, LLAMA, T5, random_model

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FLOAT, HALF, SHORT = torch.float32, torch.bfloat16, torch.float16


def choose(wanted: str, quantization: Quantization, device: torch.device, dtype: torch.dtype) -> torch.dtype:
    return choose_cache_dtype(wanted, ModelSpec("mine", "folder", quantization=quantization), device, dtype)


@pytest.mark.parametrize(
    ("wanted", "quantization", "device", "dtype", "kept"),
    [
        ("auto", "none", CPU, FLOAT, FLOAT),
        ("auto", "int8", CPU, FLOAT, HALF),
        ("auto", "int4", CPU, HALF, HALF),
        ("auto", "fp8", CPU, FLOAT, HALF),
        ("auto", "fp8", CUDA, FLOAT, FLOAT),
        ("auto", "none", CUDA, SHORT, SHORT),
        ("float32", "int8", CPU, FLOAT, FLOAT),
        ("bfloat16", "none", CPU, FLOAT, HALF),
        ("bfloat16", "none", CUDA, HALF, HALF),
    ],
)
def test_auto_is_narrower_only_beside_quantized_weights_on_a_cpu(
    wanted: str, quantization: Quantization, device: torch.device, dtype: torch.dtype, kept: torch.dtype
) -> None:
    assert choose(wanted, quantization, device, dtype) == kept


@pytest.mark.parametrize(
    ("wanted", "device", "dtype"),
    [
        ("float32", CPU, HALF),
        ("bfloat16", CPU, SHORT),
        ("bfloat16", CUDA, FLOAT),
        ("float32", CUDA, HALF),
    ],
)
def test_a_cache_that_nobody_reads_is_refused_in_words(
    wanted: str, device: torch.device, dtype: torch.dtype
) -> None:
    with pytest.raises(CheckpointError, match=f"--kv-cache-dtype {wanted}, model mine: hidden states of"):
        choose(wanted, "none", device, dtype)


def test_blocks_of_half_the_bytes_hold_twice_as_much_and_it_is_told(tmp_path: Path) -> None:
    for name, config in (("bert", BERT), ("llama", LLAMA)):
        save_model(random_model(config, dtype=FLOAT), tmp_path / name)
    sizes = {}
    for wanted in ("float32", "bfloat16"):
        worker = WorkerConfig(
            models=[ModelSpec(name, str(tmp_path / name)) for name in ("bert", "llama")],
            device="cpu",
            dtype="float32",
            kv_cache_dtype=wanted,
            kv_cache_memory=1_000_000,
            kv_cache_page=65_536,
        )
        bert, llama = build_engine(worker).infos
        assert (bert.kv_cache_dtype, llama.kv_cache_dtype) == (None, wanted)
        assert (bert.dtype, llama.dtype) == ("float32", "float32")
        sizes[wanted] = llama.block_size
    assert sizes["bfloat16"] // 2 == sizes["float32"]


@needs_kernel
@pytest.mark.parametrize("config", [LLAMA, T5], ids=lambda config: config.family)
def test_answers_are_those_without_kernels_and_near_those_of_float32(
    config: TransformerConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(random_model(config, dtype=FLOAT), tmp_path)
    source = random.Random(3)
    prompts = [random_ids(source, 40) for _ in range(8)]
    params = SamplingParams(max_tokens=8, logprobs=0, ignore_eos=True)

    def answered(kept: str) -> torch.Tensor:
        engine = make_engine({"m": tmp_path}, dtype="float32", kv_cache_dtype=kept)
        return torch.tensor(logprobs_of(engine, prompts, params))

    exact, narrow = answered("float32"), answered("bfloat16")
    monkeypatch.setattr(kernels, "_LIBRARY", None)
    torch.testing.assert_close(narrow, answered("bfloat16"), atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(narrow, exact, atol=0.05, rtol=0.05)
    assert not torch.allclose(narrow, exact, atol=1e-5, rtol=1e-5)
