"""Quartet as a Ray Serve application: doors, which take requests, and replicas, each with an engine process of its own.

    serve run deploy.ray.serving:application min_replicas=2 max_replicas=4

What is served is told as `quartet serve` is told it without flags: by QUARTET_… variables and the models.toml that
QUARTET_CONFIG names, as they are where this is deployed. Files must lie at the same place on every node.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp, Message

from app import logs
from app.commands.download import fetch
from app.config import Settings, load_settings, with_folders
from app.engine_setup import build_engine
from app.main import Limits, build_app, build_guard
from app.metrics import Metrics
from app.registry import build_registry
from app.security import KeyRing
from app.version import read_version
from deploy.ray.door import Door, ReplicaLost
from deploy.ray.exchange import answer, whole_answer
from deploy.ray.router import PrefixRouter

DOOR_CPUS = 0.1
_MARGIN = 10.0
"""Seconds that a door waits beyond what its replicas may take to end."""


class Options(BaseModel):
    """What is Ray's to know; numbers of replicas are of those that compute."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=4, ge=1)
    target_ongoing_requests: float = Field(default=64.0, gt=0)
    """Running and waiting, per replica; beyond, replicas are added."""
    max_lead: int = Field(default=16, ge=0)
    """How many requests more than others a replica may have and still get those of its prefixes."""
    num_cpus: float = Field(default=1.0, gt=0)
    num_gpus: float = Field(default=0.0, ge=0)
    """Per replica, both."""
    doors: int = Field(default=2, ge=1)


class Replica:
    """One engine process and the application over it; what `quartet serve` is but for the connections."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Ray awaits it
        logs.configure(settings.log_format)
        settings = await asyncio.to_thread(with_folders, settings, fetch)
        metrics = Metrics(read_version())
        self._name: str = serve.get_replica_context().replica_id.unique_id
        self._registry = build_registry(settings, metrics, read_version())
        engine = build_engine(settings, metrics)
        keys = None if settings.api_key_file is None else KeyRing(settings.api_key_file)
        self._app = build_app(self._registry, settings, build_guard(settings, keys, settings.allowed_hosts))
        await self._registry.start(engine)
        self._lost = asyncio.create_task(engine.wait_lost())

    async def answer(
        self, scope: dict[str, Any], body: bytes, *, prefix: str | None, avoid: tuple[str, ...]
    ) -> AsyncIterator[str | list[Message]]:
        """This replica's name, then the answer. `prefix` and `avoid` are the router's."""
        yield self._name
        async for messages in answer(self._app, scope, body):
            yield messages

    async def whole_answer(self, scope: dict[str, Any]) -> tuple[str, list[Message]]:
        """The same at once, to a request without a body."""
        return self._name, await whole_answer(self._app, scope)

    async def check_health(self) -> None:
        """Raises once the engine process cannot be kept alive; Ray then puts another replica in this one's place."""
        if self._lost.done():
            await self._lost

    async def __del__(self) -> None:
        """Called by Ray, when nothing is in flight any more; also where the start failed."""
        await self._registry.in_flight.drain(0.0)
        await self._registry.stop()


class Entrance:
    """The door as Ray's ingress."""

    def __init__(self, settings: Settings, replicas: DeploymentHandle[Any]) -> None:
        logs.configure(settings.log_format)
        limits = Limits(settings.max_body_bytes, settings.body_timeout, settings.max_timeout)
        self._door = Door(RayReplicas(replicas), limits, settings.recovery_timeout)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return Starlette(routes=[Mount("/", self._door)])


class RayReplicas:
    """`door.Replicas` by a handle of the deployment."""

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        self._one = handle.options(method_name="answer", stream=True)
        self._all = handle

    async def ask(
        self, scope: dict[str, Any], body: bytes, prefix: str | None, avoid: tuple[str, ...]
    ) -> AsyncGenerator[Any, None]:
        parts = self._one.remote(scope, body, prefix=prefix, avoid=avoid)
        is_done = False
        try:
            async for part in parts:
                yield part
            is_done = True
        except RayActorError:
            is_done = True
            raise ReplicaLost from None
        finally:
            if not is_done:
                parts.cancel()

    async def ask_all(self, scope: dict[str, Any]) -> dict[str, list[Message]]:
        answers = await self._all.broadcast("whole_answer", scope).results_async(return_exceptions=True)
        return dict(one for one in answers if not isinstance(one, BaseException))


def application(options: Options) -> serve.Application:
    """What `serve run` and a RayService import. Raises ConfigError for settings that are wrong."""
    settings = load_settings({})
    common = {
        # a replica refuses by its own queue, with 429; Ray holds nothing back
        "max_ongoing_requests": settings.max_connections,
        "max_surge_percent": 100,
        "logging_config": {"enable_access_log": False},  # there is Quartet's own
    }
    replica = serve.deployment(
        Replica,
        autoscaling_config=AutoscalingConfig(
            min_replicas=options.min_replicas,
            max_replicas=options.max_replicas,
            target_ongoing_requests=options.target_ongoing_requests,
        ),
        request_router_config=RequestRouterConfig(
            request_router_class=PrefixRouter, request_router_kwargs={"max_lead": options.max_lead}
        ),
        ray_actor_options={"num_cpus": options.num_cpus, "num_gpus": options.num_gpus},
        health_check_period_s=5,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=settings.drain_timeout,
        **common,
    )
    entrance = serve.deployment(
        serve.ingress()(Entrance),
        num_replicas=options.doors,
        ray_actor_options={"num_cpus": DOOR_CPUS},
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=settings.drain_timeout + _MARGIN,
        **common,
    )
    return entrance.bind(settings, replica.bind(settings))
