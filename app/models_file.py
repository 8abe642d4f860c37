"""The file that `--config` names: TOML tables to values, with the places that it names."""

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from app.errors import ConfigError

_TABLES = ("server", "defaults", "prompts", "models", "adapters")


def read_models_file(path: Path, settings: Collection[str]) -> dict[str, Any]:
    """The file's values under the names of `Settings`; `settings` are those that `[server]` may have.

    Paths in it are relative to it. Raises ConfigError with one line that names the file and the fault.
    """
    try:
        with path.open("rb") as stream:
            content = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
    unknown = set(content) - set(_TABLES)
    if unknown:
        raise ConfigError(f"{path}: unknown table {sorted(unknown)[0]!r}; known: {', '.join(_TABLES)}")
    values = dict(_table(content, "server", path))
    for name in values:
        if name not in settings:
            raise ConfigError(f"{path}: [server] has no setting {name!r}")
    for name in ("api_key_file", "model_root", "cache_dir"):
        if isinstance(values.get(name), str):
            values[name] = path.parent / values[name]
    values["default_models"] = _table(content, "defaults", path)
    values["prompts"] = _table(content, "prompts", path)
    for kind in ("models", "adapters"):
        entries = _table(content, kind, path)
        values[kind] = [_entry(kind, name, entry, path) for name, entry in entries.items()]
    return values


def _table(content: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    table = content.get(name, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: [{name}] must be a table")
    return table


def _entry(kind: str, name: str, entry: Any, path: Path) -> dict[str, Any]:
    """A model of the file; its path is relative to the file."""
    if isinstance(entry, dict) and isinstance(entry.get("path"), str):
        return {"name": name} | entry | {"path": path.parent / entry["path"]}
    if isinstance(entry, dict) and isinstance(entry.get("hub"), str):
        return {"name": name} | entry
    raise ConfigError(f'{path}: [{kind}.{name}] needs path = "FOLDER" or hub = "ORG/REPO"')
