"""`python -m benchmarks.peers [TEXT…] --peers FOLDER`: the rows with one of the texts in their names."""

import argparse
import sys
from pathlib import Path

from benchmarks.measure import Claim, Report
from benchmarks.peers import limits, offline, online, starting
from benchmarks.peers.process import Peers


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument(
        "texts", nargs="*", metavar="TEXT", help="'W1 decode', 'W3', 'W4 minilm' …; all by default"
    )
    parser.add_argument("--peers", type=Path, default=Path(".peers"), help="what install.sh filled (.peers)")
    parser.add_argument("--rounds", type=int, default=3, help="alternated rounds (3)")
    parser.add_argument("--precisions", nargs="*", default=["bf16", "int8"], help="of the rows over HTTP")
    parser.add_argument("--requests", type=int, default=64, help="of the W2 trace (64)")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for the JSON (results)")
    chosen = parser.parse_args(arguments)
    peers = Peers(chosen.peers.resolve())

    def is_wanted(name: str) -> bool:
        return not chosen.texts or any(text in name for text in chosen.texts)

    claims: list[Claim] = []
    if is_wanted("W0"):
        claims += limits.measure()
    for row in offline.ROWS:
        if is_wanted(row.name):
            claims.append(row.measure(peers, chosen.rounds, row.must))
            print(Report("peers", claims[-1:]).table().splitlines()[-1], flush=True)
    if is_wanted("W2"):
        claims += online.streaming(peers, chosen.rounds, chosen.precisions, chosen.requests)
    if is_wanted("W3 over HTTP"):
        claims += online.translating(peers, chosen.rounds)
    if is_wanted("start to ready, memory"):
        claims += starting.run(peers, chosen.rounds, chosen.precisions)
    report = Report("peers", claims)
    print(report.table(), f"\n\nkept in {report.save(chosen.out)}")
    return 0 if all(claim.is_met is not False for claim in claims) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
