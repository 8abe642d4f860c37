"""`python -m model.training history`: runs what is not done yet, then writes the table and the plot."""

import argparse
from pathlib import Path

from model.training.history.pieces import PIECES, Places, run_pieces
from model.training.history.report import fill, plot, table
from model.training.history.rows import Row


def add_history_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Its flags."""
    command = commands.add_parser(
        "history", help="n-grams, an LSTM and Transformers, with and without pre-training, compared"
    )
    command.add_argument("--data", type=Path, required=True)
    command.add_argument("--out", type=Path, default=Path(".runs/history"))
    command.add_argument("--zoo", type=Path, default=Path("model/zoo"))
    command.add_argument("--only", choices=list(PIECES), help="run this piece alone; it may need others done")
    command.add_argument("--table", action="store_true", help="run nothing: tell what is done")
    command.add_argument("--page", type=Path, help="a Markdown page whose marked part the table replaces")
    command.add_argument("--plot", type=Path, help="where the plot goes; default: into --out")
    command.add_argument("--threads", type=int, default=1)
    command.set_defaults(run=_history)


def _history(options: argparse.Namespace) -> int:
    places = Places(options.data, options.out, options.zoo)
    if not options.table:
        run_pieces(places, options.only)
    rows = {name: row for name in PIECES if (row := Row.read(places.runs / name)) is not None}
    told = table(rows)
    (places.runs / "history.md").write_text(told + "\n", encoding="utf-8")
    plot(rows, options.plot or places.runs / "history.svg")
    if options.page is not None:
        fill(options.page, told)
    print(told)
    return 0
