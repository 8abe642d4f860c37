"""The GPU's attention over paged caches, by Triton's interpreter where there is no GPU, against the plain body."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.grouping import cut_tiles
from model.kernels import paged
from model.kernels.paged import attend, can_attend, reference_attend, rows_a_tile, try_out
from model.layers.positions import RelativeBias

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = [pytest.mark.gpu] if DEVICE.type == "cuda" else []
BOUNDS = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}


@pytest.fixture(scope="module", autouse=True)
def _triton() -> None:
    pytest.importorskip("triton", reason="Triton is not installed (make test-triton)")


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_it_equals_the_reference(data: st.DataObject) -> None:
    draw = data.draw
    kv, shared = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 7, 8]))
    d, block = draw(st.sampled_from([8, 10, 64, 80, 128])), draw(st.integers(1, 20))
    num_rows = draw(st.lists(st.sampled_from([1, 1, 2, 5, 16, 17, 40]), min_size=1, max_size=4))
    dtype = draw(st.sampled_from(list(BOUNDS)))
    window = draw(st.sampled_from([0, 0, 1, 2, 7, 70]))
    torch.manual_seed(draw(st.integers(0, 2**20)))
    n, h = sum(num_rows), kv * shared
    lengths = [count + draw(st.integers(0, 90)) for count in num_rows]
    num_blocks = -(-max(lengths) // block)
    pages = torch.randn(num_blocks * len(lengths) + 3, 2, block, kv, 2 * d).to(DEVICE, dtype)
    cache = pages.transpose(0, 1)[1]  # two layers in a page
    order = torch.randperm(len(pages))[: num_blocks * len(lengths)].view(len(lengths), num_blocks)
    tables = order.repeat_interleave(torch.tensor(num_rows), 0).to(DEVICE)
    seen = [
        length - count + 1 + i for length, count in zip(lengths, num_rows, strict=True) for i in range(count)
    ]
    num_keys = torch.tensor(seen, device=DEVICE)
    fused = torch.randn(n, h + 2 * kv, d).to(DEVICE, dtype)  # rows that hold more than the queries
    by_distance = (
        torch.randn(h, draw(st.sampled_from([1, 9, 200]))).to(DEVICE) if draw(st.booleans()) else None
    )
    tiles = torch.tensor(cut_tiles(num_rows, draw(st.sampled_from([1, rows_a_tile(h, kv)]))), device=DEVICE)
    arguments = d**-0.5, by_distance, window
    got = attend(fused[:, :h], cache, tables, num_keys, tiles, *arguments)
    wanted = reference_attend(fused[:, :h].float(), cache.float(), tables, num_keys, *arguments)
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), wanted, atol=BOUNDS[dtype], rtol=BOUNDS[dtype])


def test_it_compiles_for_gpus_that_are_not_here_within_their_shared_memory(tmp_path: Path) -> None:
    environ = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    root = Path(__file__).parents[2]
    environ["PYTHONPATH"] = os.pathsep.join([str(root), *sys.path])
    command = [sys.executable, "-m", "tests.model.compile_paged_attention"]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=root)
    assert done.returncode == 0, done.stderr
    used = json.loads(done.stdout)
    assert len(used) == 6
    assert max(used) <= 99 * 1024, "what the smallest of them, of 8.9, gives to one block"


def test_a_query_that_sees_nothing_gives_zeros_and_garbage_behind_the_last_key_is_not_read() -> None:
    cache = torch.full((3, 4, 2, 32), float("nan"), device=DEVICE)
    cache[1, :3] = torch.randn(3, 2, 32)
    query = torch.randn(2, 4, 16, device=DEVICE)
    tables = torch.tensor([[1, 2], [1, 2]], device=DEVICE)
    tiles = torch.tensor([[0, 1], [1, 1]], device=DEVICE)
    got = attend(query, cache, tables, torch.tensor([0, 3], device=DEVICE), tiles, 0.25)
    assert torch.equal(got[0], torch.zeros(4, 16, device=DEVICE))
    wanted = reference_attend(query[1:], cache[:, :3], tables[1:, :1], torch.tensor([3], device=DEVICE), 0.25)
    torch.testing.assert_close(got[1:], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", list(BOUNDS))
def test_the_trial_at_load_finds_nothing_wrong(dtype: torch.dtype) -> None:
    assert try_out(DEVICE, dtype, 6, 2, 24) == ""


def test_tiles_are_as_large_as_the_heads_that_share_keys_let_them_be() -> None:
    assert [rows_a_tile(heads, 1) for heads in (1, 4, 7, 8, 64, 96)] == [16, 16, 8, 8, 1, 1]


def test_the_bias_of_positions_is_a_function_of_the_distance_alone() -> None:
    relative = RelativeBias(num_buckets=8, max_distance=16, num_heads=3, bidirectional=False)
    torch.nn.init.normal_(relative.table.weight)
    keys = torch.arange(60)
    dense = relative(torch.tensor([[59]]), keys)[0, :, 0]
    torch.testing.assert_close(relative.by_distance()[:, (59 - keys).clamp(max=16)], dense)


@pytest.mark.parametrize(
    ("dtype", "head_dim", "fault", "told"),
    [
        (torch.float64, 64, "", "no kernel for heads of 64 numbers in float64"),
        (torch.float32, 512, "", "no kernel for heads of 512 numbers in float32"),
        (torch.float32, 64, "results are not the reference's", "results are not the reference's"),
        (torch.float32, 64, None, "RuntimeError: no compiler"),
    ],
)
def test_what_it_cannot_do_is_left_to_others_with_a_word(
    dtype: torch.dtype,
    head_dim: int,
    fault: str | None,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def trial(*_: object) -> str:
        if fault is None:
            raise RuntimeError("no compiler")
        return fault

    monkeypatch.setattr(paged, "try_out", trial)
    assert not can_attend(torch.device("cuda"), dtype, 4, 2, head_dim)
    assert told in caplog.text


def test_a_cpu_has_kernels_of_its_own_and_a_gpu_takes_it_where_the_trial_is_passed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(paged, "try_out", lambda *_: "")
    assert not can_attend(torch.device("cpu"), torch.float32, 4, 2, 64)
    assert can_attend(torch.device("cuda"), torch.float32, 4, 2, 64)
    assert not caplog.text
