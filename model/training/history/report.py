"""The rows as a table in Markdown and as a plot."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from model.training.history import recipes
from model.training.history.rows import Row

BEGIN, END = "<!-- history: begin -->", "<!-- history: end -->"


@dataclass(frozen=True)
class Line:
    """How a piece is told of; `pretraining` names the piece that its own work comes on top of."""

    piece: str
    model: str
    pretraining: str | None = None


@dataclass(frozen=True)
class Section:
    """The models that took one test, in the order in which they came into the world."""

    test: str
    measure: str
    lines: tuple[Line, ...]


def _encoders(test: str, task: str, minilm: Line) -> Section:
    measure = "EM" if task == "questions" else "accuracy"
    scratch = Line(f"{task}-scratch", "Transformer encoder, this task alone")
    pretrained = Line(f"{task}-pretrained", "the same, pre-trained on WikiText-2", recipes.MASKED_LM.name)
    return Section(test, measure, (scratch, pretrained, minilm))


SECTIONS = (
    Section(
        "WikiText-2 test, words",
        "perplexity",
        (
            Line("kneser-ney", f"Kneser-Ney {recipes.NGRAM_ORDER}-gram"),
            Line("kneser-ney-fiction", "the same, with the fiction"),
            Line("lstm", "LSTM"),
            Line("transformer", "Transformer decoder"),
        ),
    ),
    _encoders(f"CLINC150, {recipes.FEW} examples a label", "few", Line("few-minilm", "MiniLM, LoRA")),
    _encoders("CLINC150", "intent", Line("intent-shipped", "MiniLM, LoRA, as shipped")),
    _encoders("BANKING77", "banking", Line("banking-shipped", "MiniLM, LoRA, as shipped")),
    _encoders(
        f"SQuAD v1.1 dev, {recipes.NUM_QUESTIONS:,} questions",
        "questions",
        Line("questions-shipped", "MiniLM, LoRA, as shipped"),
    ),
)


def table(rows: Mapping[str, Row]) -> str:
    """The finished pieces; those that are not are left out."""
    out = [
        "| test | model | score | 95 % interval | parameters | processor time | piece |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for section in SECTIONS:
        out += [_told(section, line, rows) for line in section.lines if line.piece in rows]
    return "\n".join(out)


def _told(section: Section, line: Line, rows: Mapping[str, Row]) -> str:
    row = rows[line.piece]
    score = f"{section.measure} {row.score:.1f}" + ("" if row.f1 is None else f", F1 {row.f1:.1f}")
    work = "–" if row.processor_s is None else _time(row.processor_s)
    if line.pretraining is not None and line.pretraining in rows:
        work += f" + {_time(rows[line.pretraining].processor_s or 0.0)}"
    interval = f"{row.low:.1f} to {row.high:.1f}"
    size = f"{row.num_parameters / 1e6:.1f} M"
    return f"| {section.test} | {line.model} | {score} | {interval} | {size} | {work} | `{line.piece}` |"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 60 else f"{seconds / 60:.1f} min"


def plot(rows: Mapping[str, Row], picture: Path) -> None:
    """An SVG, the same bytes for the same rows: a bar for each finished piece, with its interval."""
    sections = [section for section in SECTIONS if any(line.piece in rows for line in section.lines)]
    heights = [1.2 + sum(line.piece in rows for line in section.lines) for section in sections]
    with matplotlib.rc_context({"svg.hashsalt": "history", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(8, 0.33 * sum(heights)), layout="constrained")
        for place, (section, axes) in enumerate(
            zip(
                sections,
                figure.subplots(len(sections), squeeze=False, height_ratios=heights)[:, 0],
                strict=True,
            )
        ):
            lines = [line for line in section.lines if line.piece in rows][::-1]
            shown = [rows[line.piece] for line in lines]
            bars = axes.barh(
                [line.model for line in lines],
                [row.score for row in shown],
                xerr=[
                    [max(0.0, row.score - row.low) for row in shown],
                    [max(0.0, row.high - row.score) for row in shown],
                ],
                color=f"C{min(place, 1)}",
                height=0.7,
                ecolor="0.3",
            )
            axes.bar_label(bars, [f"{row.score:.1f}" for row in shown], padding=4)
            better = "lower is better" if section.measure == "perplexity" else "per cent"
            axes.set_title(f"{section.test}: {section.measure} ({better})", fontsize=9, loc="left")
            axes.set_xlim(0, 1.12 * max(max(row.high, row.score) for row in shown) if place == 0 else 112)
            axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(picture, format="svg", metadata={"Date": None})


def fill(page: Path, text: str) -> None:
    """Puts the table between the two marks of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
