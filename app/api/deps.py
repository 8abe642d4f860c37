"""What routes ask for by name: the call, and the task that answers it."""

from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request, Response

from app.api.call import Call
from app.api.errors import JSON, encode_json
from app.api.guard import Guard
from app.errors import Unavailable
from app.registry import Registry
from app.tasks.base import Task
from app.tasks.token_ids import TokenIds
from app.tasks.translate import Translate
from app.tasks.translators import Translators

AnyTask = TypeVar("AnyTask", bound=Task)


# Both are coroutines since FastAPI sends plain functions to a thread, which costs more than all else in a route.


async def get_registry(request: Request) -> Registry:
    """The one registry of the application."""
    registry: Registry = request.app.state.registry
    return registry


class Desk:
    """One request at work: finds its task, sets its deadline, shapes its answer."""

    def __init__(self, call: Call, registry: Registry) -> None:
        self.call = call
        self.registry = registry

    def task(self, kind: type[AnyTask], model: str | None, timeout: float | None = None) -> AnyTask:
        """The task of the named model, or of the default one. Raises ModelNotFound, UnsupportedTask, Unavailable.

        An address is no name: clients that know nothing else send it in the model's place.
        """
        if model is not None and model.startswith(("http://", "https://")):
            model = None
        self.call.task = kind.name
        task = self.registry.find(kind, model)
        self.call.model = task.model.name
        if timeout is not None:
            self.call.limit_time(timeout)
        reasons = self.registry.refusals()
        if reasons:
            raise Unavailable("; ".join(reasons), retry_after=1.0)
        return task

    def translators(self, model: str | None, timeout: float | None = None) -> Translators:
        """The named model, or all that translate, behind the default one, under whose name the request counts."""
        first = self.task(Translate, model, timeout)
        able = self.registry.able(Translate.name) if model is None else []
        others = [self.registry.find(Translate, one.name) for one in able if one.name != first.model.name]
        return Translators([first, *others], self.registry.detector)

    def token_ids(self, model: str | None, timeout: float | None = None) -> TokenIds:
        """The named model's tokenizer at work, or the first model's. Raises ModelNotFound."""
        token_ids = self.registry.token_ids(model)
        self.call.model = token_ids.name
        if timeout is not None:
            self.call.limit_time(timeout)
        return token_ids

    def answer(self, **parts: Any) -> Response:
        """A native answer: the route's own parts beside `model` and `usage`."""
        body = {"model": self.call.model, **parts, "usage": self.call.usage.as_dict()}
        return Response(encode_json(body), media_type=JSON)


async def needs_keys(request: Request) -> bool:
    """Whether clients must send a key."""
    guard: Guard = request.app.state.guard
    return guard.needs_keys


NeedsKeysDep = Annotated[bool, Depends(needs_keys)]
RegistryDep = Annotated[Registry, Depends(get_registry)]


async def get_desk(request: Request, registry: RegistryDep) -> Desk:
    """A desk for this request."""
    return Desk(request.state.call, registry)


DeskDep = Annotated[Desk, Depends(get_desk)]
