"""`quartet train` from beginning to end: check, plan, split, train, calibrate, score, and leave a model to serve."""

import argparse
import json
import os
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Self

import torch

from model.adapters import add_adapter
from model.config import CheckpointError
from model.heads import HEADS
from model.loading import load_model
from model.training.checkpoint import drop_checkpoints, drop_leftovers, write_json
from model.training.curve import draw_loss_curve
from model.training.heads import replace_head
from model.training.loop import Interrupted, train
from model.training.own_data.card import Outcome, write_card
from model.training.own_data.learner import ADAPTER, Results
from model.training.own_data.plan import WORK, Plan
from model.training.own_data.prepare import Prepared, Refused, check_only, plan_run, prepare
from model.training.own_data.publish import publish, save_weights, serve_line, staging
from model.training.ranks import Ranks
from model.transformer import Transformer

REFUSED, INTERRUPTED = 2, 130
_RESULT = "result.json"


def run(options: argparse.Namespace) -> int:
    """The exit status. Raises CheckpointError and FileNotFoundError for what cannot be."""
    try:
        if options.check:
            return check_only(options)
        if options.resume and options.out is None:
            raise CheckpointError("--out is missing: which run is to go on?")
        plan = Plan.read(options.out) if options.resume else plan_run(options)
        if plan.devices > 1 and not torch.distributed.is_torchelastic_launched():
            _start_all(plan.devices, options)
        return _Run(plan, options.out, options.checkpoint_minutes).run()
    except Refused as refused:
        print(refused.report, file=sys.stderr)
        print("nothing was trained: the file is refused", file=sys.stderr)
        return REFUSED
    except (Interrupted, KeyboardInterrupt) as interrupted:
        where = f" at {interrupted}" if isinstance(interrupted, Interrupted) else ""
        print(f"\nstopped{where}; go on with:\n  quartet train --resume --out {options.out}", file=sys.stderr)
        return INTERRUPTED


def _start_all(devices: int, options: argparse.Namespace) -> None:
    """This process becomes torchrun, which starts one for each device; they follow the plan that is written down."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={devices}"]
    rest = ["--resume", "--out", str(options.out), "--checkpoint-minutes", str(options.checkpoint_minutes)]
    os.execv(sys.executable, [*command, "-m", "model.training", "train", *rest])


class StopRequest:
    """Whether Ctrl-C or SIGTERM asked to stop; the same once more ends the process at once."""

    def __init__(self) -> None:
        self._is_asked = False
        self._before: dict[int, signal.Handlers | int | None] = {}

    def __call__(self) -> bool:
        return self._is_asked

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        signal.signal(
            number, self._before[number]
        )  # torchrun adds a SIGTERM to a Ctrl-C: that is no second one
        if not self._is_asked:
            print("\nstopping after this step; once more to stop at once", file=sys.stderr)
        self._is_asked = True


class _Run:
    """One run, or what is left of it."""

    def __init__(self, plan: Plan, out: Path, checkpoint_minutes: float) -> None:
        self.plan, self.out, self.work = plan, out, out / WORK
        self._checkpoint_minutes = checkpoint_minutes
        self._ranks = Ranks.join(plan.device)

    def run(self) -> int:
        if (self.work / _RESULT).is_file():
            self._say(f"{self.out} is finished:\n  {serve_line(self.plan, self.out)}")
            return 0
        if self._ranks.is_first:
            drop_leftovers(self.work)
        torch.set_num_threads(self.plan.threads)
        prepared = prepare(self.plan)
        parts = prepared.parts
        sizes = f"{len(parts.train)} rows to train on, {len(parts.dev)} to choose by, {len(parts.test)} to test on"
        self._say(
            f"{sizes}; at most {self.plan.epochs} epochs in batches of {self.plan.batch}, "
            f"learning rate {self.plan.learning_rate:g}, {self.plan.max_length} tokens"
        )
        model = self._build(prepared)
        learner = prepared.learner
        objective = learner.objective(parts.train, parts.dev)
        if not objective.lengths:
            raise CheckpointError(
                f"{self.plan.data}: not one example fits into {self.plan.max_length} tokens"
            )
        with StopRequest() as should_stop:
            dev = train(
                model,
                objective,
                self.plan.schedule if parts.dev else replace(self.plan.schedule, validate_every=0),
                self.work,
                checkpoint_minutes=self._checkpoint_minutes,
                should_stop=should_stop,
                ranks=self._ranks,
            )
        if self._ranks.is_first:
            self._finish(model, prepared, dev)
        self._ranks.leave()
        return 0

    def _build(self, prepared: Prepared) -> Transformer:
        """The base with the task's head, on the device, with those weights free that are trained."""
        plan, config = self.plan, prepared.learner.config
        torch.manual_seed(plan.seed)
        model = load_model(Path(plan.base), torch.float32)
        if plan.lora:
            add_adapter(model, ADAPTER, config, plan.rank, 2 * plan.rank, prepared.lora_targets(model))
        else:
            model.requires_grad_(True)
            if config.head in HEADS and (config.head, config.labels) != (
                model.config.head,
                model.config.labels,
            ):
                replace_head(model, config)
            model.config = replace(config, tie_embeddings=model.config.tie_embeddings)
        device = torch.device(plan.device)
        if device.type == "cuda":
            device = torch.device(f"cuda:{self._ranks.rank % torch.cuda.device_count()}")
            torch.cuda.set_device(device)
        return model.to(device)

    def _finish(self, model: Transformer, prepared: Prepared, dev: dict[str, float]) -> None:
        """What comes after the last step; done again from here where it is cut off."""
        learner, parts, plan = prepared.learner, prepared.parts, self.plan
        facts = learner.finish(model, parts.dev)
        results: Results | None = None
        if parts.test:
            self._say(f"scoring {len(parts.test)} test rows")
            results = learner.score(model, parts.test)
        outcome = self._outcome(model, dev, facts)
        serve = serve_line(plan, self.out)
        draw_loss_curve(
            self.work / "log.jsonl", self.work / "loss.png", f"{plan.task}, {Path(plan.data).name}"
        )
        with staging(self.out) as folder:
            save_weights(plan, model, learner.config if plan.lora else model.config, folder)
            (self.work / "loss.png").replace(folder / "loss.png")
            write_card(folder / "README.md", plan, parts, prepared.report, outcome, results, serve)
        publish(self.work / "model", self.out)
        (self.work / "model").rmdir()
        told = {score.name: asdict(score) for score in results.scores} if results else {}
        write_json(self.work / _RESULT, {"test": told, **asdict(outcome)})
        drop_checkpoints(self.work)
        for score in results.scores if results else []:
            self._say(f"  {score}")
        self._say(
            f"{self.out} is ready after {outcome.seconds / 60:.1f} minutes of training; serve it with:\n  {serve}"
        )

    def _outcome(self, model: Transformer, dev: dict[str, float], facts: dict[str, float | str]) -> Outcome:
        lines = (self.work / "log.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        steps = [row for row in rows if "loss" in row]
        same = [row["step"] for row in rows if dev and all(row.get(f"dev_{key}") == dev[key] for key in dev)]
        return Outcome(
            dev=dev,
            best_step=same[0] if same else steps[-1]["step"],
            num_steps=steps[-1]["step"],
            seconds=steps[-1]["seconds"],
            num_parameters=model.num_parameters,
            num_trained=sum(p.numel() for p in model.parameters() if p.requires_grad),
            facts=facts,
        )

    def _say(self, line: str) -> None:
        if self._ranks.is_first:
            print(line, file=sys.stderr, flush=True)
