"""`quartet key new`: a random key, told once, and its line for the key file."""

import os
import sys
from pathlib import Path

from app.errors import ConfigError
from app.security import Key, new_key, read_keys


def new(name: str, scopes: str, file: str | None) -> int:
    """Prints the key, for scripts; everything else goes to stderr. Without `file` its line is told there.

    Raises ConfigError: a bad name or scope, a name that the file has, a file that is broken or cannot be written.
    """
    secret, key = new_key(name, scopes.split(","))
    if file is not None:
        _append(Path(file), key)
        _say(f"added {key.name!r} to {file}; this is the only time that the key is told:")
    print(secret, flush=True)
    if file is None:
        _say(f"this is the only time that the key is told; its line for the key file is:\n{key.line()}")
    return 0


def _append(path: Path, key: Key) -> None:
    """One write, so that a server that looks meanwhile sees all of the line or nothing."""
    if path.exists() and any(key.name == other.name for other in read_keys(path)):
        raise ConfigError(f"{path} has a key {key.name!r} already: choose another name, or remove its line")
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(handle, "rb+", buffering=0) as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - 1))
            gap = "\n" if stream.read(1) not in (b"", b"\n") else ""
            stream.write(f"{gap}{key.line()}\n".encode())
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
