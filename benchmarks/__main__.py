"""`python -m benchmarks [NAME…] [--full]`: runs them, prints a table each, keeps the JSON under results/."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import (
    against_transformers,
    concurrency,
    crowds,
    determinism,
    fairness,
    gpu,
    interference,
    loading,
    memory,
    overload,
    quantization,
    recovery,
    reload,
    speculation,
    startup,
    steps,
    stream_cost,
)
from benchmarks.measure import Options
from benchmarks.peers import short

BENCHMARKS = {
    "startup": startup.run,
    "loading": loading.run,
    "concurrency": concurrency.run,
    "against_transformers": against_transformers.run,
    "interference": interference.run,
    "speculation": speculation.run,
    "recovery": recovery.run,
    "reload": reload.run,
    "determinism": determinism.run,
    "fairness": fairness.run,
    "overload": overload.run,
    "crowds": crowds.run,
    "memory": memory.run,
    "quantization": quantization.run,
    "steps": steps.run,
    "stream-cost": stream_cost.run,
    "peers": short.run,
}


ON_A_DEVICE = {"gpu": gpu.run}
"""What runs only where it is named."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}, all by default; and gpu"
    )
    parser.add_argument("--full", action="store_true", help="the sizes that the README's numbers come from")
    parser.add_argument("--pairs", type=int, help="alternated rounds (default: 5 with --full, else 2)")
    parser.add_argument("--serve", default="", help="more arguments for quartet serve")
    parser.add_argument(
        "--large", action="store_true", help="overload and steps: a random checkpoint of 0.5 B, W2's lengths"
    )
    parser.add_argument(
        "--peers",
        type=Path,
        default=Path(".peers"),
        help="what benchmarks/peers/install.sh filled (.peers); where nothing is, peers are left out",
    )
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for the JSON (results)")
    chosen = parser.parse_args(arguments)
    known = BENCHMARKS | ON_A_DEVICE
    if unknown := set(chosen.names) - set(known):
        parser.error(f"no benchmark {sorted(unknown)[0]!r}; there are {', '.join(known)}")
    pairs = chosen.pairs or (5 if chosen.full else 2)
    options = Options(pairs, chosen.full, tuple(shlex.split(chosen.serve)), chosen.large, chosen.peers)
    is_met = True
    for name in chosen.names or every_name(chosen.peers):
        report = known[name](options)
        print(report.table(), f"\n\nkept in {report.save(chosen.out)}\n", flush=True)
        is_met = is_met and all(claim.is_met is not False for claim in report.claims)
    return 0 if is_met else 1


def every_name(peers: Path) -> Sequence[str]:
    """What is run where nothing is named: other engines where they are installed."""
    return [name for name in BENCHMARKS if name != "peers" or peers.is_dir()]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
