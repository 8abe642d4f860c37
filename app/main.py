"""create_app(): routes, what surrounds them, the error handlers, the OpenAPI description; build_app(): the same by the
settings. No logic."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from app.api.connections import ConnectionLimits, Connections, allowed_connections
from app.api.door import Door
from app.api.envelope import Envelope
from app.api.errors import install_handlers
from app.api.gate import Gate, Limits
from app.api.guard import Guard, loopback_hosts
from app.api.openapi import describe, docs_page
from app.api.rates import Rates
from app.api.routes import (
    admin,
    chat,
    encoders,
    huggingface,
    libretranslate,
    openai,
    operations,
    playground,
    tasks,
)
from app.api.shelf import Shelf
from app.config import Settings
from app.registry import Registry
from app.security import KeyRing

if TYPE_CHECKING:
    from app.tracing import Tracing

__all__ = [
    "ConnectionLimits",
    "Connections",
    "Door",
    "Guard",
    "Limits",
    "allowed_connections",
    "build_app",
    "build_guard",
    "create_app",
    "loopback_hosts",
]

DESCRIPTION = "Every Transformer task from one engine. Interface: docs/api.md."


def create_app(
    registry: Registry,
    limits: Limits,
    guard: Guard | None = None,
    *,
    shelf: Shelf | None = None,
    cors_origins: Sequence[str] = (),
    logs_prompts: bool = False,
    tracing: "Tracing | None" = None,
) -> FastAPI:
    """The ASGI application over a registry, which whoever runs it starts and stops, as they close `tracing`.

    Without `guard` all is open, without `tracing` nothing is traced.
    """
    app = FastAPI(
        title="Quartet",
        version=registry.version,
        description=DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        # It would tell of what clients sent, and each request would have two spans.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    guard = guard or Guard()
    app.state.registry = registry
    app.state.guard = guard
    app.state.shelf = shelf or Shelf()
    for router in (
        tasks.router,
        encoders.router,
        openai.router,
        chat.router,
        huggingface.router,
        libretranslate.router,
        operations.router,
        admin.router,
    ):
        app.include_router(router)
    app.include_router(playground.make_router())
    app.add_api_route("/docs", docs_page, include_in_schema=False)
    app.openapi = describe(app)  # type: ignore[method-assign]
    install_handlers(app)
    # The last one added is the outermost: what the gate refuses has an id and the headers that a browser asks for.
    app.add_middleware(Gate, registry=registry, limits=limits, guard=guard, logs_prompts=logs_prompts)
    if cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    app.add_middleware(Envelope, metrics=registry.metrics, max_timeout=limits.max_timeout, tracing=tracing)
    return app


def build_guard(settings: Settings, keys: KeyRing | None, hosts: Sequence[str] | None) -> Guard:
    """For requests with one of these keys (None: anybody's) that mean one of these `hosts` (None: any)."""
    return Guard(keys, hosts, Rates(settings.rate_limit_requests, settings.rate_limit_tokens))


def build_app(
    registry: Registry, settings: Settings, guard: Guard, tracing: "Tracing | None" = None
) -> FastAPI:
    """The application as the settings want it."""
    return create_app(
        registry,
        Limits(settings.max_body_bytes, settings.body_timeout, settings.max_timeout),
        guard,
        shelf=Shelf(settings.model_root),
        cors_origins=settings.cors_origins,
        logs_prompts=settings.log_prompts,
        tracing=tracing,
    )
