"""Zero-shot classification: labels that come with the request, each fitted to the text by whatever the model can do."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from app.errors import InvalidRequest
from app.tasks.base import Task, Usage
from app.tasks.classify import Label

DEFAULT_TEMPLATE = "This example is {}."
_PLACE = "{}"


class ZeroShot(Task):
    """What every way of doing it promises; `method` is the word by which answers say which way it was."""

    name: ClassVar[str] = "zero-shot"
    method: ClassVar[str]

    @abstractmethod
    async def run(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        usage: Usage,
        *,
        multi_label: bool = False,
        template: str | None = None,
        top_k: int | None = None,
        truncate: bool = False,
    ) -> list[list[Label]]:
        """The labels of each text, best first, at most `top_k`; scores are from 0 to 1.

        Scores of one text add up to 1 over all labels, unless with `multi_label` each label stands alone.
        `template` has `{}` in the place of the label. Raises InvalidRequest for a template without it (`param`
        "hypothesis_template"), and for a text or label too long; `truncate` cuts texts, never labels.
        """


def fill_template(template: str, labels: Sequence[str]) -> list[str]:
    """Each label in the template's place for it. Nothing but a plain `{}` is looked for: templates are no code."""
    if _PLACE not in template:
        raise InvalidRequest("must have {} in the place of the label", "hypothesis_template")
    return [template.replace(_PLACE, label) for label in labels]
