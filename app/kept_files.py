"""Looks at the folder for what is fetched or compiled once and kept, before anything is."""

import tempfile
from pathlib import Path


def prepare_folder(folder: Path) -> str | None:
    """Makes it where it is missing; a line that says why nothing can be kept there, None where all is well."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return (
            f"--cache-dir {folder} cannot be written ({error.strerror or error}): "
            "what lies there is used, nothing new is kept, and no kernel is compiled"
        )
