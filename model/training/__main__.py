"""The command line of training: `python -m model.training pretrain|finetune|evaluate …`."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from model.config import CheckpointError
from model.training.config import RECIPES, Recipe
from model.training.stages import run_stage


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        return int(options.run(options))
    except (CheckpointError, FileNotFoundError) as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("pretrain", "finetune"):
        command = commands.add_parser(name)
        command.add_argument("--recipe", required=True, choices=[r.name for r in RECIPES.values() if r.command == name])
        _common(command)
        command.add_argument("--init-from", type=Path)
        command.add_argument("--max-minutes", type=float)
        command.add_argument("--max-epochs", type=int)
        command.add_argument("--seed", type=int)
        command.add_argument("--learning-rate", type=float)
        command.add_argument("--full", action="store_true", help="fine-tune every weight, without an adapter")
        command.set_defaults(run=_train)
    return parser


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", type=Path, required=True)
    command.add_argument("--out", type=Path)
    command.add_argument("--threads", type=int, default=1)


def _train(options: argparse.Namespace) -> int:
    recipe = adjusted(RECIPES[options.recipe], options)
    out = options.out or Path(".runs") / recipe.name
    scores = run_stage(recipe, options.data, out, options.init_from)
    print(json.dumps(scores, indent=2))
    return 0


def adjusted(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """The recipe with what the command line changes."""
    changes = {
        name: value
        for name in ("max_minutes", "max_epochs", "seed", "learning_rate")
        if (value := getattr(options, name)) is not None
    }
    return replace(
        recipe,
        schedule=replace(recipe.schedule, **changes),
        lora=None if options.full else recipe.lora,
    )


if __name__ == "__main__":
    sys.exit(main())
