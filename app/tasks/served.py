"""Served models as their folders describe them, and which tasks each can do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from app.tasks.qa import QA
from app.tasks.rerank import CrossEncoderRerank, EmbeddingRerank
from app.tasks.translate import Translate
from app.tasks.zero_shot import EmbeddingZeroShot, NliZeroShot
from model.config import TransformerConfig
from model.families import GENERATION, read_adapter_config, read_config, read_generation_config
from model.generation_config import GenerationConfig
from model.pooling import read_prompts
from model.tokenization import Tokenizer
from model.tokenization.chat_template import ChatTemplate

TASKS: tuple[type[Task], ...] = (
    *(Translate, Generate, CrossEncoderRerank, Classify, QA, Ner, FillMask, Embed),
    *(NliZeroShot, EmbeddingZeroShot, EmbeddingRerank),
)
"""Every task that follows from a config; a model that can do several is made for the first of them. Of ways to do
one task the better is first."""
CHAT_TASKS: tuple[type[Task], ...] = (Chat,)
"""Those that also need a chat template."""

WANTED_CHECKPOINT = {
    "translate": "an mBART, M2M100, NLLB or Marian, or an encoder-decoder that names its language pairs in config.json",
    "generate": "a decoder, or an encoder-decoder",
    "classify": "an encoder, alone or with a decoder, with a sequence classification head",
    "zero-shot": "an encoder, alone or with a decoder, with a sequence classification head and a label entailment, "
    "or an encoder without a head",
    "qa": "an encoder with a span head",
    "ner": "an encoder with a token classification head",
    "fill-mask": "an encoder with a masked-LM head",
    "embed": "an encoder without a head",
    "rerank": "an encoder with a sequence classification head of one label, or without a head",
    "chat": "a decoder, or an encoder-decoder, with a chat template (chat_template.jinja, or chat_template in "
    "tokenizer_config.json)",
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
            cache_tokens=info.num_blocks * info.block_size or None,
        )


def find_tasks(config: TransformerConfig, has_chat_template: bool) -> list[type[Task]]:
    """What a checkpoint can do, in the order of the tables."""
    tasks = (*TASKS, *CHAT_TASKS) if has_chat_template else TASKS
    return [task for task in tasks if task.fits(config)]


def read_served(
    name: str, folder: Path, base: "Served | None" = None, only: Sequence[str] | None = None
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
    able = find_tasks(config, chat_template is not None)
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
    prompts = read_prompts(folder)
    return Served(
        name, base.name if base else None, config, tokenizer, tasks, generation, chat_template, prompts
    )
