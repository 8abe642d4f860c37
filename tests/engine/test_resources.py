"""How much memory the cache may count on, and how many threads a step is given."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from app.engine.memory import available_bytes
from app.engine.threads import FEW_OPERATIONS, Threads


def write(folder: Path, **values: str) -> Path:
    for name, value in values.items():
        file = folder / name.replace("__", "/").replace("_dot_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(value + "\n")
    return folder


def test_a_container_s_limit_counts_and_not_its_host_s_memory(tmp_path: Path) -> None:
    group = write(tmp_path, memory_dot_max="5000000", memory_dot_current="3000000")
    assert available_bytes(group) == 2_000_000


def test_the_older_control_groups_are_read_too(tmp_path: Path) -> None:
    names = {"memory__memory_dot_limit_in_bytes": "900000", "memory__memory_dot_usage_in_bytes": "500000"}
    assert available_bytes(write(tmp_path, **names)) == 400_000


def test_files_that_are_only_kept_count_as_free(tmp_path: Path) -> None:
    counted = {"memory_dot_max": "5000000", "memory_dot_current": "3000000"}
    stat = "anon 1000000\ninactive_file 1500000\nactive_file 500000"
    assert available_bytes(write(tmp_path / "new", **counted, memory_dot_stat=stat)) == 3_500_000
    older = {"memory__memory_dot_limit_in_bytes": "900000", "memory__memory_dot_usage_in_bytes": "500000"}
    stat = "cache 1\ntotal_inactive_file 100000"
    assert available_bytes(write(tmp_path / "old", **older, memory__memory_dot_stat=stat)) == 500_000


def test_a_group_over_its_limit_has_nothing_left(tmp_path: Path) -> None:
    assert available_bytes(write(tmp_path, memory_dot_max="10", memory_dot_current="30")) == 0


@pytest.mark.parametrize("limit", ["max", str(2**62), ""])
def test_without_a_limit_it_is_what_the_machine_has(
    limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Memory:
        available = 123_456

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    assert available_bytes(write(tmp_path, memory_dot_max=limit, memory_dot_current="5")) == 123_456
    assert available_bytes(tmp_path / "nowhere") == 123_456


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_small_steps_take_one_thread_and_large_ones_all(two_threads: None) -> None:
    threads = Threads(num_parameters=1_000_000, most=2)
    most_small = int(FEW_OPERATIONS / 2_000_000)
    for num_tokens, wanted in ((1, 1), (most_small + 1, 2), (most_small, 1), (4 * most_small, 2)):
        threads.use_for(num_tokens)
        assert torch.get_num_threads() == wanted
