"""Served models as their folders describe them, and which tasks each can do."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any

from app.engine.protocol import ModelInfo
from app.errors import ConfigError
from app.tasks.base import Task, TaskModel
from app.tasks.chat import Chat
from app.tasks.classify import Classify
from app.tasks.embed import Embed
from app.tasks.fill_mask import FillMask
from app.tasks.generate import Generate
from app.tasks.languages import find_languages
from app.tasks.ner import Ner
from app.tasks.prompted import PromptedQA, PromptedSummarize, PromptedTranslate
from app.tasks.prompts import PROMPTS, Prompts
from app.tasks.qa import SpanQA
from app.tasks.rerank import CrossEncoderRerank, EmbeddingRerank
from app.tasks.summarize import Summarize
from app.tasks.translate import Translate
from app.tasks.zero_shot import EmbeddingZeroShot, NliZeroShot
from app.tasks.zero_shot_generative import GenerativeZeroShot
from model.config import TransformerConfig
from model.families import GENERATION, read_adapter_config, read_config, read_generation_config
from model.generation_config import GenerationConfig
from model.pooling import read_prompts
from model.tokenization import Tokenizer
from model.tokenization.chat_template import ChatTemplate

TASKS: tuple[type[Task], ...] = (
    *(Translate, Summarize, Generate, CrossEncoderRerank, Classify, SpanQA, Ner, FillMask, Embed),
    *(NliZeroShot, EmbeddingZeroShot, EmbeddingRerank),
)
"""Every task that follows from a config; a model that can do several is made for the first of them."""
CHAT_TASKS: tuple[type[Task], ...] = (Chat,)
"""Those that also need a chat template."""
PROMPTED_TASKS: Mapping[str, type[Task]] = {
    "translate": PromptedTranslate,
    "summarize": PromptedSummarize,
    "qa": PromptedQA,
    "classify": GenerativeZeroShot,
}
"""By the name of the prompt: what a generative checkpoint is told to do in words."""
EVERY_TASK = (*TASKS, *CHAT_TASKS, *PROMPTED_TASKS.values())
"""Of ways to do one task the better is first."""

WANTED_CHECKPOINT = {
    "translate": "an mBART, M2M100, NLLB or Marian, an encoder-decoder that names its language pairs in "
    "config.json, or a decoder with a chat template",
    "summarize": "a Pegasus, an encoder-decoder that says in config.json how it summarizes, or a decoder with a chat "
    "template",
    "generate": "a decoder, or an encoder-decoder",
    "classify": "an encoder, alone or with a decoder, with a sequence classification head",
    "zero-shot": "an encoder, alone or with a decoder, with a sequence classification head and a label entailment, "
    "an encoder without a head, or a decoder",
    "qa": "an encoder with a span head, or a decoder with a chat template",
    "ner": "an encoder with a token classification head",
    "fill-mask": "an encoder with a masked-LM head",
    "embed": "an encoder without a head",
    "chat": "a decoder, or an encoder-decoder, with a chat template (chat_template.jinja, or chat_template in "
    "tokenizer_config.json)",
    "rerank": "an encoder with a sequence classification head of one label, or without a head",
}


@dataclass(frozen=True)
class Served:
    """One served model; an adapter has a `base`, whose tokenizer it may share."""

    name: str
    base: str | None
    config: TransformerConfig
    tokenizer: Tokenizer
    tasks: tuple[type[Task], ...]
    generation: GenerationConfig
    chat_template: ChatTemplate | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    task_prompts: Prompts = PROMPTS

    def languages(self) -> dict[str, Any]:
        """What it translates, as `app.tasks.languages` tells it; {} where it does not."""
        if Translate not in self.tasks:
            return {}
        return find_languages(self.name, self.config, self.tokenizer).told()

    def task_model(self, info: ModelInfo) -> TaskModel:
        """As the tasks see it, with the limits that the engine told."""
        return TaskModel(
            name=self.name,
            config=self.config,
            tokenizer=self.tokenizer,
            max_length=info.max_model_len,
            vocab_size=info.vocab_size,
            special_ids=self.tokenizer.special_ids,
            generation=self.generation,
            chat_template=self.chat_template,
            prompts=self.prompts,
            task_prompts=self.task_prompts,
            cache_tokens=info.num_blocks * info.block_size or None,
            engine_name=info.name,
        )


def find_tasks(
    config: TransformerConfig, has_chat_template: bool, prompted: Collection[str] = ()
) -> list[type[Task]]:
    """What a checkpoint can do, in the order of the tables; each task in one way.

    `prompted` are the prompts that models.toml has for it alone, which go before what it is made for. Without any, and
    without a chat template, a decoder still tells how likely it is to say a label.
    """
    found: dict[str, type[Task]] = {}
    for task in (*TASKS, *(CHAT_TASKS if has_chat_template else ())):
        if task.fits(config):
            found.setdefault(task.name, task)
    for prompt, task in PROMPTED_TASKS.items():
        is_told = has_chat_template or (task is GenerativeZeroShot and config.kind == "decoder")
        if task.fits(config) and (prompt in prompted or (is_told and task.name not in found)):
            found[task.name] = task
    return list(found.values())


def best_first(served: Iterable[Served], task: str) -> list[Served]:
    """Those that can do it: first who is made for it, last who is told in words to do it."""
    ranks = [
        ((kind in PROMPTED_TASKS.values() or kind is not one.tasks[0], EVERY_TASK.index(kind)), one)
        for one in served
        for kind in one.tasks
        if kind.name == task
    ]
    return [one for _, one in sorted(ranks, key=itemgetter(0))]


def read_served(
    name: str,
    folder: Path,
    base: "Served | None" = None,
    only: Sequence[str] | None = None,
    prompts: Prompts = PROMPTS,
) -> Served:
    """Reads a checkpoint's or an adapter's folder, no weights.

    Raises CheckpointError for a folder that cannot be served, ConfigError for tasks in `only` that it cannot do.
    """
    config = read_config(folder) if base is None else read_adapter_config(base.config, folder)
    if base is not None and not (folder / "tokenizer.json").is_file():
        tokenizer = base.tokenizer
    else:
        tokenizer = Tokenizer.from_folder(folder)
    chat_template = ChatTemplate.from_folder(folder)
    if chat_template is None and base is not None:
        chat_template = base.chat_template
    able = find_tasks(config, chat_template is not None, prompts.own)
    if not able:
        raise ConfigError(
            f"model {name!r}: no task is served yet for a {config.kind} with head {config.head!r}"
        )
    for wanted in only or ():
        if wanted not in [task.name for task in able]:
            can = ", ".join(task.name for task in able)
            raise ConfigError(f"model {name!r} cannot {wanted}, only {can}")
    tasks = tuple(task for task in able if only is None or task.name in only)
    if config.kind == "encoder":
        generation = GenerationConfig()
    elif base is not None and not (folder / GENERATION).is_file():
        generation = base.generation
    else:
        generation = read_generation_config(folder, config.vocab_size)
    base_name = base.name if base else None
    own = read_prompts(folder)
    return Served(name, base_name, config, tokenizer, tasks, generation, chat_template, own, prompts)
