"""From `quartet serve` to ready, and the memory of all its processes, from a warm page cache."""

from benchmarks.measure import Claim, Options, Report
from benchmarks.service import Service

READY_SECONDS = 5.0
RESIDENT_MIB = 1200.0 * 1e6 / 2**20


def run(options: Options) -> Report:
    """The first start warms the page cache and is not counted."""
    with Service(options.serve):
        pass
    seconds, memory = [], []
    for _ in range(options.pairs):
        with Service(options.serve) as service:
            seconds.append(service.seconds_to_ready)
            memory.append(service.memory())
    resident = [weighed["resident_mib"] for weighed in memory]
    claims = [
        Claim("quartet serve to ready", "s", seconds, target=READY_SECONDS),
        Claim("resident memory, all processes", "MiB", resident, target=RESIDENT_MIB),
    ]
    return Report("startup", claims, {"memory": memory})
