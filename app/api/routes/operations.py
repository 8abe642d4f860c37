"""What operators and their tools ask: alive, ready, metrics, what is served."""

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse

from app.api.answers import Health, Reasons, told
from app.api.deps import RegistryDep
from app.api.errors import JSON, encode_json
from app.metrics import CONTENT_TYPE

router = APIRouter(tags=["operations"])


@router.get("/health", responses=told(Health))
async def health() -> Response:
    """The process is alive and its loop turns."""
    return Response(b'{"status":"ok"}', media_type=JSON)


@router.get("/ready", responses=told(Reasons) | {503: {"model": Reasons, "description": "Not now"}})
async def ready(registry: RegistryDep) -> Response:
    """200 when every model is loaded, the engine steps and no drain is on; 503 with the reasons otherwise."""
    reasons = registry.not_ready_reasons()
    status = "ready" if not reasons else "not ready"
    return Response(
        encode_json({"status": status, "reasons": reasons}),
        status_code=503 if reasons else 200,
        media_type=JSON,
    )


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(registry: RegistryDep) -> Response:
    """The Prometheus exposition."""
    return Response(registry.exposition(), media_type=CONTENT_TYPE)


@router.get("/info")
async def info(registry: RegistryDep) -> Response:
    """Version, models, device, dtype, limits."""
    return Response(encode_json(registry.info()), media_type=JSON)
