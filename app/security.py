"""Keys: what the key file says, whose a given key is, and what it may do. Knows no HTTP.

A key is a random text that only its owner has; the file holds its SHA-256, which is enough for a text that nobody can
guess. Whoever reads the file learns no key.
"""

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from app.errors import ConfigError

SCOPES = ("infer", "metrics", "admin")
LOOK_SECONDS = 1.0
"""The key file is looked at this often at most."""

may_hurry: ContextVar[bool] = ContextVar("may_hurry", default=True)
"""Whether the request that the current task works for may have a priority above 0."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger("quartet.security")


@dataclass(frozen=True)
class Key:
    """One line of the file. `digest` is the SHA-256 of the key in lower-case hex."""

    name: str
    scopes: frozenset[str]
    digest: str

    def line(self) -> str:
        """As the file has it, without the line's end."""
        return f"{self.name} {','.join(scope for scope in SCOPES if scope in self.scopes)} {self.digest}"


def new_key(name: str, scopes: Iterable[str]) -> tuple[str, Key]:
    """A random key and what the file says of it. Raises ConfigError for a bad name or an unknown scope."""
    secret = f"qk-{secrets.token_urlsafe(32)}"
    return secret, _make_key(name, list(scopes), _digest(secret.encode()))


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys of a file: lines `name scopes sha256`, blank ones and those that begin with # left out.

    Raises ConfigError in one line that names the file and the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigError(f"cannot read the keys of {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text in UTF-8") from None
    keys: dict[str, Key] = {}
    owners: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            key = _parse(line)
            if key.name in keys:
                raise ConfigError(f"the name {key.name!r} is there twice")
            if key.digest in owners:
                raise ConfigError(f"{key.name!r} has the same key as {owners[key.digest]!r}")
        except ConfigError as error:
            raise ConfigError(f"{path}, line {number}: {error}") from None
        keys[key.name] = key
        owners[key.digest] = key.name
    return tuple(keys.values())


class KeyRing:
    """The keys of a file, read again when it changes. A file that cannot be read then leaves the keys as they were."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises ConfigError when the file is broken or has no key."""
        self._path = path
        self._clock = clock
        self._looked_at = clock()
        self._stamp = self._read_stamp()
        self._keys = read_keys(path)
        if not self._keys:
            raise ConfigError(f"{path} has no key; `quartet key new NAME --file {path}` adds one")

    def find(self, given: bytes) -> Key | None:
        """Whose key this is. Takes the same time for every key, known or not."""
        self._refresh()
        digest = _digest(given)
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def grants(self, scope: str) -> bool:
        """Whether any key has this scope."""
        self._refresh()
        return any(scope in key.scopes for key in self._keys)

    def _refresh(self) -> None:
        now = self._clock()
        if now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        stamp = self._read_stamp()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = read_keys(self._path)
        except ConfigError as error:
            _log.error("the keys stay as they were: %s", error)
            return
        names = ", ".join(key.name for key in self._keys)
        _log.info("read the key file again; keys: %s", names or "none, so that nobody is let in")

    def _read_stamp(self) -> tuple[int, int, int] | None:
        """What tells one state of the file from another; links are followed."""
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _parse(line: str) -> Key:
    parts = line.split()
    if len(parts) != 3:
        raise ConfigError(f"has {len(parts)} words; a line is: name scopes sha256")
    name, scopes, digest = parts
    return _make_key(name, scopes.split(","), digest.lower())


def _make_key(name: str, scopes: list[str], digest: str) -> Key:
    if not _NAME.fullmatch(name):
        raise ConfigError("a key's name has 1 to 64 letters, digits, dots, dashes and underscores")
    for scope in scopes:
        if scope not in SCOPES:
            raise ConfigError(f"the scopes are {', '.join(SCOPES)}, parted by commas; {scope[:40]!r} is none")
    if not _DIGEST.fullmatch(digest):
        raise ConfigError("the last word must be a SHA-256 of 64 hexadecimal digits")
    return Key(name, frozenset(scopes), digest)


def _digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()
