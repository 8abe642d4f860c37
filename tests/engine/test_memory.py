"""What was read of mapped files can be taken out of the process, and nothing that was written is lost."""

from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from app.engine.build import build_engine
from app.engine.memory import forget_pages
from app.engine.protocol import ModelSpec, WorkerConfig
from model.loading import save_model
from tests.tiny import LLAMA, random_model

MEBIBYTE = 2**20


def resident(file: Path) -> int:
    """Bytes of the file that this process has in memory."""
    maps = psutil.Process().memory_maps(grouped=False)
    return sum(int(one.rss) for one in maps if one.path == str(file.resolve()))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(range(256)) * (4 * MEBIBYTE // 256))
    return path


def test_pages_leave_and_come_back_by_themselves(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    mapped = np.memmap(file, np.uint8, "r")
    total = int(mapped.sum())
    assert resident(file) == 4 * MEBIBYTE
    forget_pages([tmp_path / "absent", link])
    assert resident(file) == 0
    assert int(mapped.sum()) == total


def test_what_was_written_over_a_file_stays(file: Path) -> None:
    mapped = np.memmap(file, np.uint8, "c")
    mapped[5] = 99
    assert int(mapped.sum()) > 0
    forget_pages([file])
    assert mapped[5] == 99
    assert file.read_bytes()[5] == 5


def test_an_engine_lets_go_of_the_weight_files_that_it_has_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(random_model(LLAMA, dtype=torch.float32), tmp_path)
    forgotten: list[Path | None] = []
    monkeypatch.setattr("app.engine.build.forget_pages", forgotten.extend)
    monkeypatch.setattr("app.engine.build.release_free", lambda: forgotten.append(None))
    build_engine(WorkerConfig(models=[ModelSpec("m", str(tmp_path))], device="cpu", kv_cache_memory=10**7))
    assert forgotten == [tmp_path / "model.safetensors", None]  # and then of what laying them out took
