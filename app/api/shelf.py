"""What administrators may load at run time, whatever they ask for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from app.errors import InvalidRequest, ModelNotFound


@dataclass(frozen=True)
class Adapter:
    """A PEFT adapter's folder and the served model that it sits on."""

    base: str
    folder: Path


@dataclass(frozen=True)
class Shelf:
    """`named` are those that the settings name; beside them any folder below `root` is there."""

    named: Mapping[str, Adapter] = field(default_factory=dict)
    root: Path | None = None

    def find(self, name: str, base: str | None, path: str | None) -> Adapter:
        """The adapter at `path`, relative to the root, on `base`; without both the one that the settings call `name`.

        Links are followed before it is looked where a folder lies. Raises InvalidRequest, ModelNotFound.
        """
        if path is None and base is None:
            if name not in self.named:
                known = ", ".join(self.named) or "none"
                raise ModelNotFound(f"the settings name no adapter {name[:100]!r}, but {known}", param="name")
            return self.named[name]
        if base is None or path is None:
            missing = "base" if base is None else "path"
            raise InvalidRequest(f"{missing} is required", missing, "missing_parameter")
        if self.root is None:
            raise InvalidRequest("folders are loaded only by a server started with --model-root", "path")
        return Adapter(base, _folder_below(self.root, path))


def _folder_below(root: Path, path: str) -> Path:
    try:
        root = root.resolve(strict=True)
        folder = (root / path).resolve(strict=True)
        is_below = folder.is_relative_to(root) and folder.is_dir()
    except (
        OSError,
        ValueError,
        RuntimeError,
    ):  # not there, not readable, too long, a zero byte, links in a circle
        is_below = False
    if not is_below:  # one answer for all, so that nobody learns what lies elsewhere
        raise InvalidRequest("must be a folder below --model-root", "path")
    return folder
