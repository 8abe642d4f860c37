"""What names stand for: folders, and what the settings say of them beside."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from app.engine.protocol import Quantization
from app.errors import InvalidRequest, ModelNotFound
from app.tasks.prompts import PROMPTS, Prompts


@dataclass(frozen=True)
class Source:
    """A checkpoint's folder, or an adapter's, which has a `base`: the served model that it sits on.

    `tasks` is what it is narrowed to; None: all that it can do. `weight` is its share of the device's time,
    `quantization` what its weights are made.
    """

    folder: Path
    base: str | None = None
    tasks: tuple[str, ...] | None = None
    prompts: Prompts = PROMPTS
    weight: float = 1.0
    quantization: Quantization = "none"


@dataclass(frozen=True)
class Wanted:
    """What an administrator says of a name that is to be loaded; None: as it is known."""

    folder: Path | None = None
    base: str | None = None
    weight: float | None = None


@dataclass
class Sources:
    """`named` are those of the settings; `loaded` is what is served now, where that is something else.

    `prompts` and `quantization` are for names that the settings do not know.
    """

    named: Mapping[str, Source] = field(default_factory=dict)
    prompts: Prompts = PROMPTS
    quantization: Quantization = "none"
    loaded: dict[str, Source] = field(default_factory=dict)

    def find(self, name: str, wanted: Wanted) -> Source:
        """What is to be served as `name`: of a name that is known, only what is wanted otherwise is another.

        Raises ModelNotFound, InvalidRequest.
        """
        known = self.loaded.get(name) or self.named.get(name)
        if wanted.folder is None:
            if wanted.base is not None:
                raise InvalidRequest("path is required", "path", "missing_parameter")
            if known is None:
                names = ", ".join(self.named) or "none"
                raise ModelNotFound(f"the settings name no model {name[:100]!r}, but {names}", param="name")
            source = known
        elif known is None:
            source = Source(wanted.folder, wanted.base, prompts=self.prompts, quantization=self.quantization)
        else:
            source = replace(known, folder=wanted.folder, base=wanted.base)
        return source if wanted.weight is None else replace(source, weight=wanted.weight)
