"""Which folders administrators may name, whatever they ask for."""

from dataclasses import dataclass
from pathlib import Path

from app.errors import InvalidRequest


@dataclass(frozen=True)
class Shelf:
    """Any folder below `root` may be loaded; without one, none may be named."""

    root: Path | None = None

    def folder(self, path: str) -> Path:
        """What lies at `path`, relative to the root. Links are followed before it is looked where a folder lies.

        Raises InvalidRequest.
        """
        if self.root is None:
            raise InvalidRequest("folders are loaded only by a server started with --model-root", "path")
        return _folder_below(self.root, path)


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
