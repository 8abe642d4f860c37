"""What a family is: two translations of a config, and a table of weight names."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from model.config import Head, TransformerConfig

ReadConfig = Callable[[Mapping[str, Any]], TransformerConfig]
WriteConfig = Callable[[TransformerConfig], dict[str, Any]]


@dataclass(frozen=True)
class Family:
    """A table; what computes is the one Transformer.

    `weights` maps our module and parameter names to the published ones; `{i}` stands for a layer
    number. A name ending in `|gated`, `|untied` or `|modern` goes before the plain one where the
    feed-forward network is gated, the output table not tied, or `extra` says that it is not legacy.
    `base_prefix` is what a checkpoint with a head puts before the names of the bare model, and a
    bare checkpoint leaves out. `harmless` matches published tensors that carry nothing we need,
    `copies` those that hold the word table once more, a tied `lm_head.weight` among them, and
    `zero_if_missing` weights that are nought where they are not published.

    Where several of our parameters have one published name, that tensor holds them one after the
    other along its output dimension, in the order of the model's parameters (query, key, value).
    `transposed` matches the published names of weights that are stored as [in, out].
    """

    model_type: str
    heads: Mapping[str, Head]
    read: ReadConfig
    write: WriteConfig
    weights: Mapping[str, str]
    base_prefix: str = ""
    harmless: str = r"(?!)"
    copies: str = r"(?!)"
    zero_if_missing: str = r"(?!)"
    transposed: str = r"(?!)"

    def published_name(self, parameter: str, config: TransformerConfig) -> str:
        """The published name, `base_prefix` included, of a parameter of ours; KeyError for an unknown one."""
        generic = _generic_name(parameter, config)
        if whole := self._entry(generic, config):
            return whole
        module, _, leaf = generic.rpartition(".")
        layer = re.search(r"\.(\d+)\.", parameter)
        name = f"{self._entry(module, config) or self.weights[module]}.{leaf}"
        return name.replace("{i}", layer[1]) if layer else name

    def _entry(self, name: str, config: TransformerConfig) -> str | None:
        variants = {
            "gated": config.gated_mlp,
            "untied": not config.tie_embeddings,
            "modern": config.extra.get("legacy") is False,
        }
        for variant, holds in variants.items():
            if holds and f"{name}|{variant}" in self.weights:
                return self.weights[f"{name}|{variant}"]
        return self.weights.get(name)


def _generic_name(parameter: str, config: TransformerConfig) -> str:
    """The layer number as `{i}`, and a head's parameters under the kind of head that holds them."""
    if not parameter.startswith("heads."):
        return re.sub(r"\.\d+\.", ".{i}.", parameter)
    _, _, inside = parameter.split(".", 2)
    if config.head == "pretraining":
        return f"head.{inside}"
    if config.head == "masked-lm":
        return f"head.masked_lm.{inside}"
    if config.head == "next-sentence":
        return f"head.next_sentence.{inside}"
    return f"head.{inside}" if inside.startswith("pooler.") else f"head.{config.head}.{inside}"


def read_labels(raw: Mapping[str, Any], head: Head) -> tuple[str, ...]:
    """The label names in the order of the logits; LABEL_0 and LABEL_1 where none are published."""
    if head not in ("sequence-class", "token-class"):
        return ()
    by_id = raw.get("id2label")
    if by_id:
        return tuple(str(by_id[key]) for key in sorted(by_id, key=int))
    return tuple(f"LABEL_{i}" for i in range(int(raw.get("num_labels", 2))))


def write_labels(config: TransformerConfig) -> dict[str, Any]:
    """The label maps of `config.json`."""
    if not config.labels:
        return {}
    maps = {
        "id2label": {str(i): label for i, label in enumerate(config.labels)},
        "label2id": {label: i for i, label in enumerate(config.labels)},
    }
    if config.multi_label:
        return maps | {"problem_type": "multi_label_classification"}
    return maps


def read_head(raw: Mapping[str, Any], heads: Mapping[str, Head]) -> Head:
    """The head that `architectures` names; ValueError for one that the family does not have."""
    architectures = raw.get("architectures") or []
    if not architectures:
        return next(iter(heads.values()))
    name = architectures[0]
    if name not in heads:
        if "Classification" in str(name) and set(heads.values()).isdisjoint(
            ("sequence-class", "token-class")
        ):
            raise ValueError(f"{name}: this family is not served as a classifier, only as {', '.join(heads)}")
        raise ValueError(f"unknown architecture {name!r}; known: {', '.join(heads)}")
    return heads[name]


def architecture(config: TransformerConfig, heads: Mapping[str, Head]) -> str:
    """The published class name for a config's head."""
    return next(name for name, head in heads.items() if head == config.head)


def token_ids(value: Any) -> tuple[int, ...]:
    """Token ids from a published field that may hold none, one or a list."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)


def pad_token(raw: Mapping[str, Any], default: int = 0) -> int:
    """The padding token; the family's where none is published, or one outside the vocabulary (early Llamas: -1)."""
    token = raw.get("pad_token_id")
    is_outside = type(token) is int and not 0 <= token < raw["vocab_size"]
    return default if token is None or is_outside else token


def one_or_list(tokens: tuple[int, ...]) -> int | list[int] | None:
    """Token ids as a published field has them; the other way round than `token_ids`."""
    return tokens[0] if len(tokens) == 1 else list(tokens) or None


TASK_KEYS = ("task_specific_params", "quartet", "finetuning_task", "prefix", "min_length")


def keep(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What the task layer reads besides the shape."""
    return {key: raw[key] for key in TASK_KEYS if raw.get(key) is not None}
