"""What there is against a request by its head alone: who asks, how often, and whether there is room."""

from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import Scope

from app.api.call import Call
from app.api.envelope import finish, make_call
from app.api.errors import error_response
from app.api.guard import NOBODY, Guard
from app.caller import Caller
from app.errors import Overloaded, QuartetError, RateLimited
from app.registry import Registry
from app.security import Key

WITHOUT_WORK = frozenset({"GET", "HEAD", "OPTIONS"})
_WITHOUT_ENGINE = frozenset({"/v1/tokenize", "/v1/detokenize", "/detect"})
_NEED_MORE = (b"origin", b"x-forwarded-for")
"""Headers by which others, further in, know what a browser must be told, or who asks."""

Headers = Mapping[bytes, bytes]


class Door:
    """Asked by the gate of every request, and by the connections before there is anything of one but its head."""

    def __init__(
        self, registry: Registry, guard: Guard, max_timeout: float, *, is_traced: bool = False
    ) -> None:
        """`is_traced`: each request is to have a trace, which the envelope makes: none is refused before it."""
        self._registry, self._guard, self._max_timeout = registry, guard, max_timeout
        self._is_traced = is_traced

    def check(self, call: Call, key: Key | None, path: str) -> None:
        """Counts a request that wants work. Raises RateLimited, Overloaded."""
        self._guard.rates.admit(NOBODY if key is None else key.name)
        if needs_engine(path):
            self._registry.check_room(asked_by(call, path))

    def refuse(self, scope: Scope) -> Response | None:
        """The whole answer to a request for which there is no room, counted and logged like any other. None where the
        gate may say something else."""
        headers, method, path = dict(scope["headers"]), scope["method"], scope["path"]
        is_simple = method not in WITHOUT_WORK and needs_engine(path) and not self._is_traced
        if not is_simple or any(name in headers for name in _NEED_MORE):
            return None
        call = make_call(scope, self._max_timeout)
        try:
            if self._guard.wants_body(path, headers):
                return None
            self._guard.check_host(path, headers)
            key = self._guard.admit(call, method, path, headers)
            self._registry.check_room(asked_by(call, path))
        except Overloaded as full:
            failure = full
        except QuartetError:
            return None
        else:
            return None
        try:
            self._guard.rates.admit(NOBODY if key is None else key.name)
        except RateLimited as limited:
            failure = limited
        call.failure = failure
        finish(scope, call, failure.status, self._registry.metrics)
        return error_response(failure, call, {"X-Request-ID": call.request_id})


def asked_by(call: Call, path: str) -> Caller:
    """A caller of whoever sent it: a key or, without keys, an address. Before the body is read its path is all that is
    known of what it wants."""
    return Caller(call.key or call.client or "", path, call.timeline)


def needs_engine(path: str) -> bool:
    """Whether a request that wants work wants it of the engine."""
    return path not in _WITHOUT_ENGINE and not path.startswith("/admin/")
