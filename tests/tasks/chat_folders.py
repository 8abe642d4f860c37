"""Folders of chat models: four well-known ways to write a template, over a tokenizer with one token a byte."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, processors

from tests.api.folders import CONFIGS, byte_tokenizer

_ALTERNATE = """{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% endfor %}
"""


@dataclass(frozen=True)
class Published:
    """A template and the tokens that it writes; `bos` is also what the tokenizer puts before any other text."""

    template: str
    bos: str | None
    eos: str
    others: tuple[str, ...] = ()

    @property
    def tokens(self) -> list[str]:
        return [token for token in (self.bos, self.eos, *self.others) if token is not None]


PUBLISHED = {
    "chatml": Published(
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
        "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
        None,
        "<|im_end|>",
        ("<|im_start|>",),
    ),
    "llama3": Published(
        "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + "
        "'<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' %}"
        "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
        "<|begin_of_text|>",
        "<|eot_id|>",
        ("<|start_header_id|>", "<|end_header_id|>"),
    ),
    "gemma": Published(
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}" + _ALTERNATE + "{% for message in messages %}"
        "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
        "{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}",
        "<bos>",
        "<end_of_turn>",
        ("<start_of_turn>",),
    ),
    "mistral": Published(
        "{% if messages[0]['role'] == 'system' %}{% set first = messages[0]['content'] + '\\n\\n' %}"
        "{% set messages = messages[1:] %}{% else %}{% set first = '' %}{% endif %}{{ bos_token }}"
        + _ALTERNATE
        + "{% for message in messages %}{% if message['role'] == 'user' %}"
        "{{ '[INST] ' + (first if loop.last else '') + message['content'] + ' [/INST]' }}"
        "{% else %}{{ ' ' + message['content'] | trim + eos_token }}{% endif %}{% endfor %}",
        "<s>",
        "</s>",
        ("[INST]", "[/INST]"),
    ),
}


def write_tokenizer(folder: Path, published: Published) -> int:
    """The tokenizer's files and the template; returns how many tokens there are."""
    tokenizer = byte_tokenizer(pair_template=False)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in published.tokens])
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": published.eos,
        "chat_template": published.template,
    }
    if published.bos is not None:
        settings["bos_token"] = published.bos
        bos = (published.bos, tokenizer.token_to_id(published.bos))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{published.bos} $A", special_tokens=[bos]
        )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return tokenizer.get_vocab_size()


def write_chat_folder(folder: Path, name: str) -> Path:
    """A Llama without weights that has the named template."""
    size = write_tokenizer(folder, PUBLISHED[name])
    config = {key: value for key, value in CONFIGS["writer"].items() if key != "chat_template"}
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": size}))
    return folder
