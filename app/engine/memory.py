"""How much memory this process may still take: what the machine has, or what its control group leaves."""

from pathlib import Path

import psutil

CGROUP = Path("/sys/fs/cgroup")


def available_bytes(cgroup: Path = CGROUP) -> int:
    """Memory that can be had without swapping: a container's own limit counts, not its host's memory."""
    available = int(psutil.virtual_memory().available)
    limit, used = _group_bytes(cgroup)
    if limit is None or used is None:
        return available
    return max(0, min(available, limit - used))


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


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # absent, or the word "max"
        return None
