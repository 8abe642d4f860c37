"""create_app(): routes, the gate, the error handlers, the OpenAPI description. No logic."""

from fastapi import FastAPI

from app.api.connections import ConnectionLimits, Connections, allowed_connections
from app.api.errors import install_handlers
from app.api.gate import Gate, Limits
from app.api.openapi import describe, docs_page
from app.api.routes import chat, encoders, openai, operations, tasks
from app.registry import Registry

__all__ = ["ConnectionLimits", "Connections", "Limits", "allowed_connections", "create_app"]

DESCRIPTION = "Every Transformer task from one engine. Interface: docs/api.md."


def create_app(registry: Registry, limits: Limits) -> FastAPI:
    """The ASGI application over a registry, which whoever runs it starts and stops."""
    app = FastAPI(
        title="Quartet", version=registry.version, description=DESCRIPTION, docs_url=None, redoc_url=None
    )
    app.state.registry = registry
    for router in (tasks.router, encoders.router, openai.router, chat.router, operations.router):
        app.include_router(router)
    app.add_api_route("/docs", docs_page, include_in_schema=False)
    app.openapi = describe(app)  # type: ignore[method-assign]
    install_handlers(app)
    app.add_middleware(Gate, registry=registry, limits=limits)
    return app
