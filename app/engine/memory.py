"""How much memory this process may still take: what the machine has, or what its control group leaves. And how it gives
back what it does not need."""

import ctypes
from collections.abc import Collection, Iterator
from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")
CACHED_PRODUCTS = 256
_CACHES = (b"LRU_CACHE_CAPACITY", b"ONEDNN_PRIMITIVE_CACHE_CAPACITY")
"""Where torch's binding to oneDNN, and oneDNN itself, look up how many compiled products they keep."""
_DONTNEED = 4
"""madvise's word for it."""


def available_bytes(cgroup: Path = CGROUP) -> int:
    """Memory that can be had without swapping: a container's own limit counts, not its host's memory. What only keeps
    files that nobody has looked at lately can be had."""
    available = int(psutil.virtual_memory().available)
    limit, used = _group_bytes(cgroup)
    if limit is None or used is None:
        return available
    return max(0, min(available, limit - used + _idle_file_bytes(cgroup)))


def bound_caches() -> None:
    """Has oneDNN keep the last CACHED_PRODUCTS of its compiled products, of which there is one for each layer's shape
    and number of rows, and not a thousand, twice. Before anything is computed. A number in the environment stands."""
    for name in _CACHES:
        ctypes.CDLL(None).setenv(name, b"%d" % CACHED_PRODUCTS, 0)


def release_free() -> None:
    """Gives the system what has been freed and the C library keeps for later; with another than glibc, nothing. Takes
    some tens of milliseconds for a gigabyte."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def forget_pages(files: Collection[Path]) -> None:
    """Takes out of this process what it has read of memory-mapped files: the page cache keeps it, and what is looked at
    again comes back by itself. A mapping that was written to stays as it is."""
    madvise = getattr(ctypes.CDLL(None), "madvise", None)
    if madvise is None:
        return
    for begin, end in _unwritten({str(file.resolve()) for file in files}):
        madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _DONTNEED)


def _unwritten(paths: Collection[str], maps: Path = Path("/proc/self/smaps")) -> Iterator[tuple[int, int]]:
    """Where such files are mapped and nothing of this process's own is in their place."""
    span: tuple[int, int] | None = None
    try:
        lines = maps.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # another system
        return
    for line in lines:
        parts = line.split(maxsplit=5)
        if not parts[0].endswith(":"):
            begin, end = (int(number, 16) for number in parts[0].split("-"))
            span = (begin, end) if len(parts) == 6 and parts[5] in paths else None
        elif span is not None and parts[0] == "Anonymous:" and parts[1] == "0":
            yield span


def _group_bytes(cgroup: Path) -> tuple[int | None, int | None]:
    """Limit and use of the control group, by version 2 or 1; None where there is no limit."""
    for limit, used in (
        (cgroup / "memory.max", cgroup / "memory.current"),
        (cgroup / "memory" / "memory.limit_in_bytes", cgroup / "memory" / "memory.usage_in_bytes"),
    ):
        values = _number(limit), _number(used)
        if None not in values:
            return values
    return None, None


def _idle_file_bytes(cgroup: Path) -> int:
    for file, key in (
        (cgroup / "memory.stat", "inactive_file"),
        (cgroup / "memory" / "memory.stat", "total_inactive_file"),
    ):
        try:
            lines = file.read_text(encoding="ascii").splitlines()
            return next(
                int(value) for name, _, value in (line.partition(" ") for line in lines) if name == key
            )
        except (OSError, ValueError, StopIteration):
            continue
    return 0


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # absent, or the word "max"
        return None
