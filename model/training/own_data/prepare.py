"""Everything before the first step: the options become a plan, the file examples, and the base is looked at."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from model.config import CheckpointError
from model.families import published_name, read_config, read_generation_config
from model.generation_config import GenerationConfig
from model.layers.linear import Linear
from model.tokenization import Tokenizer
from model.training.own_data.answers import AnswerFinder
from model.training.own_data.check import check_file, check_lengths, without_seen
from model.training.own_data.classifier import Classifier
from model.training.own_data.columns import PARTS
from model.training.own_data.examples import Example
from model.training.own_data.learner import Learner, Setting
from model.training.own_data.pairs import PairWriter
from model.training.own_data.plan import KINDS, PLAN, WORK, Plan, choose_length, longest, with_defaults
from model.training.own_data.report import Report, shown
from model.training.own_data.running_text import TextWriter
from model.training.own_data.split import Split, split
from model.training.own_data.table import digest
from model.transformer import Transformer

_WISHES = (
    *("rank", "batch", "accumulation", "epochs", "max_steps", "max_minutes", "learning_rate", "warmup_steps"),
    *("validate_every", "patience", "label_smoothing", "max_length"),
)


class Refused(Exception):
    """The data cannot be trained on; the reports say why."""

    def __init__(self, report: str) -> None:
        super().__init__("the file is refused")
        self.report = report


@dataclass(frozen=True)
class Prepared:
    """What training stands on."""

    parts: Split
    learner: Learner
    report: Report

    def lora_targets(self, model: Transformer) -> str:
        """A pattern of the linears that an adapter can be written for: those that are published by themselves."""
        names = [name for name, module in model.named_modules() if isinstance(module, Linear)]
        names = [name for name in names if name.startswith(("encoder.layers.", "decoder.layers."))]
        published = {name: published_name(f"{name}.weight", model.config) for name in names}
        alone = [name for name in names if list(published.values()).count(published[name]) == 1]
        return "|".join(name.replace(".", r"\.") for name in alone)


@dataclass(frozen=True)
class _Data:
    """The usable examples of the data, and of the rows to test on where those have a file of their own."""

    examples: list[Example]
    held_out: list[Example]
    reports: tuple[Report, ...]

    @property
    def told(self) -> str:
        return "\n".join(map(str, self.reports))

    @property
    def is_refused(self) -> bool:
        return any(report.is_refused for report in self.reports)


def check_only(options: argparse.Namespace) -> int:
    """Prints the report; 0 where the file can be trained on, else 2."""
    plan = _asked(options, ("task", "data"))
    data = _read(plan)
    if options.base is not None and not data.is_refused:
        plan = _planned(plan, data, options)
    print(data.told)
    if plan.epochs:
        told = f"{plan.epochs} epochs at most, batches of {plan.batch}, learning rate {plan.learning_rate:g}"
        print(f"with {shown(Path(plan.base))}: {told}, {plan.max_length} tokens")
    return 2 if data.is_refused else 0


def plan_run(options: argparse.Namespace) -> Plan:
    """Checks the data, tells what it found, and writes the plan to `--out`.

    Raises Refused, and CheckpointError for options and bases that do not fit.
    """
    plan = _asked(options, ("task", "data", "base", "out"))
    has_run = (options.out / WORK / PLAN).is_file()
    if has_run or (options.out.is_dir() and any(path.name != WORK for path in options.out.iterdir())):
        hint = "go on with its run by --resume, or choose another" if has_run else "choose another"
        raise CheckpointError(f"{options.out} is not empty: {hint}")
    data = _read(plan)
    if data.is_refused:
        raise Refused(data.told)
    plan = _planned(plan, data, options)
    if data.is_refused:
        raise Refused(data.told)
    print(data.told, file=sys.stderr)
    plan.save(options.out)
    return plan


def prepare(plan: Plan) -> Prepared:
    """The same for the same plan. Raises CheckpointError where the data have changed since it was made."""
    for path, expected in plan.digests.items():
        if digest(Path(path)) != expected:
            raise CheckpointError(f"{path} has changed since the run began: start another")
    data = _read(plan)
    learner = _learner(plan, data.examples)
    return Prepared(_parts(plan, data), learner, data.reports[0])


def _asked(options: argparse.Namespace, needed: Sequence[str]) -> Plan:
    """What was said, without the numbers that follow from base and data."""
    for name in needed:
        if getattr(options, name) is None:
            raise CheckpointError(f"--{name} is missing; see quartet train --help")
    files = [path.resolve() for path in (options.data, options.eval_data) if path is not None]
    device, devices = _devices(options)
    chosen = {part: getattr(options, f"column_{part}") for parts in PARTS.values() for part in parts}
    is_fast = device == "cuda" and torch.cuda.is_bf16_supported()
    test_share = 0.0 if options.eval_data is not None else 0.1
    return Plan(
        task=options.task,
        data=str(files[0]),
        eval_data=str(files[1]) if len(files) > 1 else None,
        base="" if options.base is None else str(options.base.resolve()),
        digests={str(path): digest(path) for path in files},
        columns={part: column for part, column in chosen.items() if column is not None},
        encoding=options.encoding,
        dev_share=0.1 if options.dev_share is None else options.dev_share,
        test_share=test_share if options.test_share is None else options.test_share,
        source_language=options.source_language,
        target_language=options.target_language,
        prefix=options.prefix,
        lora=options.lora,
        precision=options.precision or ("bfloat16" if is_fast else "float32"),
        seed=17 if options.seed is None else options.seed,
        device=device,
        devices=devices,
        threads=options.threads or max(1, torch.get_num_threads() // (devices if device == "cpu" else 1)),
    )


def _devices(options: argparse.Namespace) -> tuple[str, int]:
    """The kind of device, and how many processes; all that are there where nothing is said."""
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    there = torch.cuda.device_count() if device == "cuda" else 1
    if device == "cuda" and not there:
        raise CheckpointError("--device cuda: there is none")
    if device == "cuda" and (options.devices or 1) > there:
        raise CheckpointError(f"--devices {options.devices}: there are {there}")
    return device, options.devices or there


def _read(plan: Plan) -> _Data:
    """The data, checked for all that needs no base."""
    examples, report = check_file(plan.task, Path(plan.data), plan.columns, plan.encoding)
    if plan.eval_data is None:
        return _Data(examples, [], (report,))
    columns = plan.columns
    held_out, second = check_file(plan.task, Path(plan.eval_data), columns, plan.encoding, is_held_out=True)
    if plan.task == "classification" and examples:
        known = {example.output for example in examples}
        for example in held_out:
            if example.output not in known:
                told = f"{example.output!r} is the label of no row in {report.file}"
                second.leave_out("labels that are not trained", example.row, "label", told)
        held_out = [example for example in held_out if example.output in known]
    return _Data(without_seen(examples, held_out, report), held_out, (report, second))


def _parts(plan: Plan, data: _Data) -> Split:
    parts = split(data.examples, plan.task, plan.dev_share, plan.test_share, plan.seed)
    return replace(parts, test=data.held_out) if plan.eval_data is not None else parts


def _planned(plan: Plan, data: _Data, options: argparse.Namespace) -> Plan:
    """With every number, and in the report the texts that are too long for it."""
    wished: dict[str, Any] = {name: getattr(options, name) for name in _WISHES}
    wished = {name: value for name, value in wished.items() if value is not None}
    setting = _setting(plan)
    limit = longest(setting.base, setting.tokenizer.max_length)
    if wished.get("max_length", 0) > limit:
        raise CheckpointError(f"--max-length {wished['max_length']}: {plan.base} takes {limit} tokens")
    counts = _learner(plan, data.examples).token_counts(data.examples)
    length = choose_length(plan.task, setting.base, setting.tokenizer.max_length, max(counts))
    length = wished.get("max_length") or length
    num_train = len(_parts(plan, data).train)
    report = data.reports[0]
    if plan.task == "lm":
        num_train = int(sum(counts) * num_train / len(counts)) // length
        report.facts.append(f"{sum(counts)} tokens")
        if not num_train:
            told = f"{sum(counts)} tokens do not fill one block of {length}; give more text, or --max-length"
            report.refuse("too little text", told)
    elif plan.task != "qa":
        part = "text" if plan.task == "classification" else "source or target"
        check_lengths(counts, data.examples, part, length, "the end is cut off", report)
    return with_defaults(replace(plan, max_length=length), setting.base, num_train, wished)


def _setting(plan: Plan) -> Setting:
    base = Path(plan.base)
    if (base / "adapter_config.json").is_file():
        raise CheckpointError(f"{base} is an adapter: give the checkpoint that it stands on")
    config = read_config(base)
    if config.kind != KINDS[plan.task]:
        article = "an" if KINDS[plan.task].startswith("e") else "a"
        raise CheckpointError(
            f"{base}: {plan.task} needs {article} {KINDS[plan.task]}, and this is a {config.kind}"
        )
    if config.kind == "encoder":
        generation = GenerationConfig()
    else:
        generation = read_generation_config(base, config.vocab_size)
    return Setting(plan, Tokenizer.from_folder(base), config, generation)


def _learner(plan: Plan, examples: Sequence[Example]) -> Learner:
    setting = _setting(plan)
    makers: Mapping[str, Callable[[], Learner]] = {
        "classification": lambda: Classifier(setting, examples),
        "qa": lambda: AnswerFinder(setting),
        "translation": lambda: PairWriter(setting),
        "seq2seq": lambda: PairWriter(setting),
        "lm": lambda: TextWriter(setting),
    }
    return makers[plan.task]()
