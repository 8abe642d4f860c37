"""Who is let in: the Host that was meant, the key that was given, the scope that a path needs, the rate of requests.

What is not named here needs a key, so a route cannot be forgotten.
"""

from collections.abc import Iterable, Mapping

from app.api.body import read_fields
from app.api.call import Call
from app.api.errors import route_not_found
from app.api.rates import Rates
from app.errors import AuthenticationError, InvalidRequest, PermissionDenied
from app.security import Key, KeyRing

_PROBES = frozenset({"/health", "/ready"})
_OPEN = _PROBES | {"/", "/frontend/settings"}
_STATIC = "/static/"
_KEY_IN_BODY = frozenset({"/translate", "/detect"})
"""LibreTranslate's clients know no header for it."""

NOBODY = ""
"""The name of whoever asks where there are no keys."""


class Guard:
    """Without `keys` everybody may do everything but administer; without `hosts` every Host is right.

    Hosts are names or addresses without a port; `*.example.com` stands for all names below, `*` for any.
    """

    def __init__(
        self, keys: KeyRing | None = None, hosts: Iterable[str] | None = None, rates: Rates | None = None
    ) -> None:
        self.rates = rates or Rates()
        self._keys = keys
        names = [host.lower().strip("[]") for host in (("*",) if hosts is None else hosts)]
        self._takes_any_host = "*" in names
        self._hosts = frozenset(names)
        self._domains = tuple(name[1:] for name in names if name.startswith("*."))

    @property
    def needs_keys(self) -> bool:
        """Whether what is not open to all needs a key."""
        return self._keys is not None

    def check_host(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        """Raises InvalidRequest: a page of another site must not reach a server on this machine by a name of its own.

        Probes come by whatever address the prober knows, and learn nothing.
        """
        if self._takes_any_host or path in _PROBES:
            return
        host = _without_port(headers.get(b"host", b"").decode("latin-1").lower())
        if host not in self._hosts and not host.endswith(self._domains or ("\0",)):
            raise InvalidRequest(
                "the Host of this request is not served here; --allowed-hosts names those that are",
                "Host",
                "host_not_allowed",
            )

    def wants_body(self, path: str, headers: Mapping[bytes, bytes]) -> bool:
        """Whether the key may be in the body, which then must be read first."""
        return (
            self._keys is not None and path in _KEY_IN_BODY and self._find(_keys_in_headers(headers)) is None
        )

    def admit(
        self, call: Call, method: str, path: str, headers: Mapping[bytes, bytes], body: bytes | None = None
    ) -> Key | None:
        """The key that this request is made with, of which the call learns the name; None where none is needed.

        Raises AuthenticationError, PermissionDenied, and RouteNotFound for the routes of administrators where there
        are none.
        """
        scope = scope_of(method, path)
        if scope is None:
            return None
        is_hidden = scope == "admin" and (self._keys is None or not self._keys.grants("admin"))
        key = None
        if self._keys is not None:
            key = self._known(headers, body)
            call.key = key.name
            needed = "infer" if is_hidden else scope
            if needed not in key.scopes:
                raise PermissionDenied(f"the key {key.name!r} lacks the scope {needed!r}")
        if is_hidden:
            raise route_not_found(path)
        return key

    def _known(self, headers: Mapping[bytes, bytes], body: bytes | None) -> Key:
        given = _keys_in_headers(headers)
        if body is not None:
            value = read_fields(body, headers.get(b"content-type", b"").decode("latin-1")).get("api_key")
            if isinstance(value, str) and value:
                given.append(value.encode("utf-8", "surrogatepass"))
        if not given:
            raise AuthenticationError(
                "a key is needed: send Authorization: Bearer KEY, or X-API-Key: KEY", code="missing_api_key"
            )
        key = self._find(given)
        if key is None:
            raise AuthenticationError("this key is not known here")
        return key

    def _find(self, given: Iterable[bytes]) -> Key | None:
        assert self._keys is not None
        found = [self._keys.find(one) for one in given]
        return next((key for key in found if key is not None), None)


def scope_of(method: str, path: str) -> str | None:
    """What a key must be allowed to do for this; None: no key is needed."""
    if method == "OPTIONS":
        return None
    if method in ("GET", "HEAD") and (path in _OPEN or path.startswith(_STATIC)):
        return None
    if path == "/admin" or path.startswith("/admin/"):
        return "admin"
    return "metrics" if path == "/metrics" else "infer"


def loopback_hosts(host: str) -> tuple[str, ...]:
    """What a server that listens on `host`, an address or name of this machine alone, is called."""
    return ("localhost", "127.0.0.1", "::1", host)


def _keys_in_headers(headers: Mapping[bytes, bytes]) -> list[bytes]:
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    given = [token.strip()] if scheme.lower() == b"bearer" else []
    given.append(headers.get(b"x-api-key", b"").strip())
    return [key for key in given if key]


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")
