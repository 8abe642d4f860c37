"""What a generative checkpoint is told to do for a task: templates with named places, built in or from models.toml."""

from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter

from app.errors import ConfigError

MAX_CHARS = 10_000
NO_ANSWER = "unanswerable"
"""What `{no_answer}` stands for: the reply that means that the context holds no answer."""

BUILT_IN: Mapping[str, str] = {
    "translate": (
        "Translate the text below from {source} into {target}. Answer with the translation alone, laid out like the "
        "text.\n\n{text}"
    ),
    "summarize": (
        "Summarize the text below in a few sentences, in the language that it is written in. Answer with the summary "
        "alone.\n\n{text}"
    ),
    "classify": (
        "Which of these labels fits the text below best: {labels}? Answer with the label alone.\n\n"
        "Text: {text}\n\nLabel:"
    ),
    "qa": (
        "Answer the question with as few words as can be, copied from the text below.\n\n"
        "Text: {context}\n\nQuestion: {question}\n\nAnswer:"
    ),
    "qa_or_none": (
        "Answer the question with as few words as can be, copied from the text below. If the text does not answer it, "
        "say only: {no_answer}\n\nText: {context}\n\nQuestion: {question}\n\nAnswer:"
    ),
}
"""By name; `deploy/models.toml` shows them, and a test holds it to these."""

_NEEDED: Mapping[str, frozenset[str]] = {
    "translate": frozenset(("text", "target")),
    "summarize": frozenset(("text",)),
    "classify": frozenset(("text",)),
    "qa": frozenset(("question", "context")),
    "qa_or_none": frozenset(("question", "context", "no_answer")),
}
_ALLOWED: Mapping[str, frozenset[str]] = {
    **_NEEDED,
    "translate": _NEEDED["translate"] | {"source"},
    "classify": _NEEDED["classify"] | {"labels"},
}


@dataclass(frozen=True)
class Prompts:
    """One model's templates by name; `own` are those that models.toml has for it alone."""

    templates: Mapping[str, str]
    own: frozenset[str] = frozenset()

    def fill(self, name: str, **places: str) -> str:
        """The template with its places filled; what is filled in is never looked at for places of its own."""
        parts = []
        for literal, place, _, _ in Formatter().parse(self.templates[name]):
            parts += [literal, "" if place is None else places[place]]
        return "".join(parts)


PROMPTS = Prompts(BUILT_IN)
"""Where models.toml says nothing."""


def make_prompts(general: Mapping[str, str], own: Mapping[str, str], model: str) -> Prompts:
    """The built-in templates under those for all models under the model's own. Raises ConfigError with one line."""
    for table, templates in (("prompts", general), (f"models.{model}.prompts", own)):
        for name, template in templates.items():
            fault = _fault(name, template)
            if fault:
                raise ConfigError(f"[{table}]: {fault}")
    return Prompts({**BUILT_IN, **general, **own}, frozenset(own))


def _fault(name: str, template: str) -> str:
    """What is wrong with a template, "" for nothing."""
    if name not in BUILT_IN:
        return f"no task has a prompt {name!r}; known: {', '.join(BUILT_IN)}"
    if len(template) > MAX_CHARS:
        return f"{name} is over {MAX_CHARS} characters"
    try:
        parts = list(Formatter().parse(template))
    except ValueError as error:
        return f"{name}: {str(error).lower()}; a brace that is meant as such is written twice"
    places = {place for _, place, _, _ in parts if place is not None}
    known = " ".join(f"{{{place}}}" for place in sorted(_ALLOWED[name]))
    for _, place, spec, conversion in parts:
        if place is not None and (place not in _ALLOWED[name] or spec or conversion):
            written = place + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            return f"{name} has no place {{{written}}}, only {known}"
    missing = sorted(_NEEDED[name] - places)
    return f"{name} needs the place {{{missing[0]}}}" if missing else ""
