"""A few rows, one round each: enough to see that nothing was lost."""

from benchmarks.measure import Options, Report
from benchmarks.peers.offline import ROWS
from benchmarks.peers.online import translating
from benchmarks.peers.process import Peers

SHORT = (
    "W1 decode, batch 1, int8",
    "W3 marian greedy, batch 16",
    "W3 t5-small greedy, batch 16",
    "W4 minilm, int8",
)
"""How the names of these rows begin, beside those of W3 over HTTP."""


def run(options: Options) -> Report:
    """Beside what `options.peers` holds."""
    peers = Peers(options.peers.resolve())
    claims = [row.measure(peers, 1, row.must) for row in ROWS if row.name.startswith(SHORT)]
    return Report("peers_short", [*claims, *translating(peers, 1)])
