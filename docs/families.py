"""Writes the table of families into docs/models.md: `python -m docs.families`. A test holds the page to it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.tasks.served import find_tasks
from model.config import Head, Kind, TransformerConfig
from model.families import FAMILIES, NOT_SERVED
from model.families.family import Family

PAGE = Path(__file__).parent / "models.md"
BEGIN, END = "<!-- families: written by python -m docs.families -->\n", "<!-- end -->\n"
_PUBLISHED = {"task_specific_params": {"translation_en_to_de": {"prefix": ""}, "summarization": {}}}
_LABELS = (("entailment", "contradiction"), ("LABEL_0",))


def table() -> str:
    """One row for each class that `architectures` may name, and below it why near relatives have none."""
    rows = ["| `model_type` | kind | `architectures` | head | tasks |", "|---|---|---|---|---|"]
    for family in FAMILIES.values():
        for architecture, head in family.heads.items():
            tasks = ", ".join(_tasks(family, head)) or "none yet"
            rows.append(f"| `{family.model_type}` | {_kind(family)} | `{architecture}` | {head} | {tasks} |")
    not_served = [f"- `{name}` is not served: {why}." for name, why in NOT_SERVED.items()]
    return "\n".join([*rows, "", *not_served, ""])


def page(text: str) -> str:
    """The page with the table as it is now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table()}{END}{after}"


def _kind(family: Family) -> Kind:
    """By the stacks that its table names weights for."""
    has_encoder, has_decoder = (
        any(name.startswith(f"{side}.layers.") for name in family.weights) for side in ("encoder", "decoder")
    )
    if has_encoder and has_decoder:
        return "encoder-decoder"
    return "encoder" if has_encoder else "decoder"


def _tasks(family: Family, head: Head) -> Iterator[str]:
    configs = [_stand_in(family, head), _stand_in(family, head, extra=_PUBLISHED)]
    if head == "sequence-class":
        configs += [_stand_in(family, head, labels=labels) for labels in _LABELS]
    marks = dict.fromkeys(_names(configs[0]), "")
    marks |= {name: " \\*" for name in _names(configs[1]) if name not in marks}
    marks |= {name: " †" for config in configs[2:] for name in _names(config) if name not in marks}
    if _kind(family) == "decoder":
        marks |= {name: " ‡" for name in _names(configs[0], has_chat_template=True) if name not in marks}
    for name, mark in marks.items():
        yield name + mark


def _names(config: TransformerConfig, has_chat_template: bool = False) -> list[str]:
    return [task.name for task in find_tasks(config, has_chat_template)]


def _stand_in(
    family: Family, head: Head, labels: tuple[str, ...] = ("LABEL_0", "LABEL_1"), **changes: Any
) -> TransformerConfig:
    """A config of this kind and head; tasks look at nothing else but labels and languages."""
    return TransformerConfig(
        family=family.model_type,
        kind=_kind(family),
        head=head,
        labels=labels if head.endswith("-class") else (),
        vocab_size=8,
        hidden_size=8,
        intermediate_size=8,
        num_encoder_layers=1,
        num_decoder_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        max_positions=8,
        position="learned",
        norm="layernorm",
        norm_eps=1e-6,
        pre_norm=False,
        activation="gelu",
        attention_bias=True,
        output_bias=True,
        mlp_bias=True,
        attention_scale=1.0,
        **changes,
    )


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
