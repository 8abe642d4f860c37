"""Writes the tables of what is served into the pages that show them: `python -m docs.families`.

A test holds the pages to it.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from app.tasks.served import WANTED_CHECKPOINT, find_tasks
from model.config import Head, Kind, TransformerConfig
from model.families import FAMILIES, NOT_SERVED
from model.families.family import Family

DOCS = Path(__file__).parent
END = "<!-- end -->\n"
_PUBLISHED = {"task_specific_params": {"translation_en_to_de": {"prefix": ""}, "summarization": {}}}
_LABELS = (("entailment", "contradiction"), ("LABEL_0",))
_KINDS: tuple[Kind, ...] = ("encoder", "encoder-decoder", "decoder")


def families() -> str:
    """One row for each class that `architectures` may name, and below it why near relatives have none."""
    rows = ["| `model_type` | kind | `architectures` | head | tasks |", "|---|---|---|---|---|"]
    for family in FAMILIES.values():
        for architecture, head in family.heads.items():
            tasks = ", ".join(_tasks(family, head)) or "none yet"
            rows.append(f"| `{family.model_type}` | {_kind(family)} | `{architecture}` | {head} | {tasks} |")
    not_served = [f"- `{name}` is not served: {why}." for name, why in NOT_SERVED.items()]
    return "\n".join([*rows, "", *not_served, ""])


def support() -> str:
    """One row for each task: which kinds of checkpoints do it, marked where only on a condition."""
    rows = ["| task | encoder | encoder-decoder | decoder |", "|---|---|---|---|"]
    found: dict[tuple[str, Kind], set[str]] = {}
    for family in FAMILIES.values():
        for head in family.heads.values():
            for task in _tasks(family, head):
                name, _, mark = task.partition(" ")
                found.setdefault((name, _kind(family)), set()).add(mark)
    for name in WANTED_CHECKPOINT:
        marks = (found.get((name, kind)) for kind in _KINDS)
        cells = ("" if mark is None else f"yes {min(mark)}".strip() for mark in marks)
        rows.append(f"| {name} | {' | '.join(cells)} |".replace("  ", " "))
    return "\n".join([*rows, ""])


BLOCKS: Mapping[str, Callable[[], str]] = {"families": families, "support": support}
PAGES: Mapping[Path, str] = {
    DOCS / "models.md": "families",
    DOCS / "tasks.md": "support",
    DOCS.parent / "README.md": "support",
}
"""Which block is in which page."""


def page(text: str, block: str) -> str:
    """The page with that block as it is now."""
    begin = f"<!-- {block}: written by python -m docs.families -->\n"
    before, found, rest = text.partition(begin)
    _, _, after = rest.partition(END)
    return f"{before}{begin}{BLOCKS[block]()}{END}{after}" if found else text


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
    for path, block in PAGES.items():
        path.write_text(page(path.read_text(encoding="utf-8"), block), encoding="utf-8")
