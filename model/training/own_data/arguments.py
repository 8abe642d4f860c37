"""What `quartet train` takes. Decides nothing: what is left out comes as None."""

import argparse
from collections.abc import Callable
from pathlib import Path

from model.training.own_data.columns import PARTS

PROG = "quartet train"


def add_train_command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
) -> argparse.ArgumentParser:
    """The command `train`."""
    parser = commands.add_parser(
        "train",
        prog=PROG,
        help="train on a file of your own",
        description="Checks a file of your own, trains a model on it, scores it on rows that it has not seen, and "
        "leaves a folder that `quartet serve` and `transformers` load.",
        epilog="Numbers that are left out follow from the task, the base and the data; DIR/training/plan.json has "
        "them all. Ctrl-C saves; `quartet train --resume --out DIR` goes on.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--task", choices=list(PARTS), help="what is learnt")
    add("--data", type=Path, metavar="FILE", help=".csv, .tsv (both with a header) or .jsonl")
    add("--base", type=Path, metavar="PATH", help="the checkpoint to start from")
    add("--out", type=Path, metavar="DIR", help="the new model's folder, and of its training")
    add(
        "--check",
        action="store_true",
        help="only look at the file, and at how it fits the base where one is given",
    )
    add("--resume", action="store_true", help="go on with the run in DIR; nothing else is to be said")
    _add_data(parser.add_argument_group("data"))
    _add_training(parser.add_argument_group("training"))
    return parser


def _add_data(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    parts = dict.fromkeys(part for parts in PARTS.values() for part in parts)
    for part in parts:
        flag = f"--{part.replace('_', '-')}"
        add(flag, metavar="COLUMN", dest=f"column_{part}", help=f"where the {part} stands, if not guessed")
    add("--encoding", help="of the file (UTF-8)")
    add(
        "--eval-data",
        type=Path,
        metavar="FILE",
        help="rows to test on; left out, some of --data are kept for it",
    )
    add(
        "--dev-share",
        type=_share,
        metavar="SHARE",
        help="of the rows, for early stopping and calibration (0.1)",
    )
    add("--test-share", type=_share, metavar="SHARE", help="of the rows, for the scores (0.1)")
    add("--source-language", metavar="CODE", help="of a translation")
    add("--target-language", metavar="CODE", help="of a translation")
    add("--prefix", metavar="TEXT", help="words before each source, as a T5 is asked")


def _add_training(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--lora", action="store_true", help="train a LoRA adapter instead of every weight")
    add("--rank", type=_at_least_one, metavar="N", help="of the adapter (16)")
    add("--max-length", type=_at_least_one, metavar="TOKENS", help="of a text; longer ones are cut")
    add("--batch", type=_at_least_one, metavar="N", help="examples in a batch")
    add("--accumulation", type=_at_least_one, metavar="N", help="batches in a step (1)")
    add("--epochs", type=_at_least_one, metavar="N", help="passes over the data, at most")
    add("--max-steps", type=_at_least_one, metavar="N")
    add("--max-minutes", type=_positive, metavar="MINUTES", help="two such runs are not alike")
    add("--learning-rate", type=_positive, metavar="RATE")
    add("--warmup-steps", type=_at_least_one, metavar="N", help="(a tenth of all)")
    add("--validate-every", type=_at_least_one, metavar="STEPS", help="(an epoch, 500 at most)")
    add(
        "--patience",
        type=int,
        metavar="N",
        help="validations without a better one that end it, 0: none do (5)",
    )
    add("--label-smoothing", type=_share, metavar="SHARE", help="(0)")
    add("--precision", choices=["float32", "bfloat16"], help="of products (float32; on a GPU bfloat16)")
    add("--seed", type=int, metavar="N", help="of the split and all that is drawn (17)")
    add("--device", choices=["auto", "cpu", "cuda"], default="auto")
    add("--devices", type=_at_least_one, metavar="N", help="processes that share the work (one a GPU)")
    add("--threads", type=_at_least_one, metavar="N", help="of each process on a CPU (all cores)")
    add("--checkpoint-minutes", type=float, default=2.0, metavar="MINUTES", help="between checkpoints (2)")


def _number(
    check: Callable[[float], bool], told: str, kind: type[int] | type[float]
) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = kind(text)
        if not check(value):
            raise argparse.ArgumentTypeError(f"{text} is not {told}")
        return value

    parse.__name__ = kind.__name__
    return parse


_share = _number(lambda value: 0.0 <= value <= 0.5, "a share from 0 to 0.5", float)
_positive = _number(lambda value: value > 0.0, "above 0", float)
_at_least_one = _number(lambda value: value >= 1, "a whole number from 1", int)
