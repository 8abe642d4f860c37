"""What administrators ask; the guard lets nobody else see that it is there."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.api.deps import RegistryDep
from app.api.errors import JSON, encode_json
from app.api.schemas import Text
from app.api.shelf import Shelf
from app.sources import Wanted

router = APIRouter(prefix="/admin", include_in_schema=False)

TRACED_STEPS = 100


class LoadBody(BaseModel):
    """POST /admin/models/{name}/load; nothing for what the settings name, or what is served already."""

    model_config = ConfigDict(extra="forbid", strict=True)

    base: Text | None = None
    path: Text | None = None
    weight: Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)] | None = None


async def get_shelf(request: Request) -> Shelf:
    """The one shelf of the application."""
    shelf: Shelf = request.app.state.shelf
    return shelf


ShelfDep = Annotated[Shelf, Depends(get_shelf)]


@router.get("/trace")
async def trace(registry: RegistryDep, steps: int = TRACED_STEPS) -> Response:
    """The engine's last steps as Chrome trace JSON, for chrome://tracing or ui.perfetto.dev."""
    return Response(encode_json(await registry.trace(steps)), media_type=JSON)


@router.post("/models/{name:path}/load")
async def load(name: str, registry: RegistryDep, shelf: ShelfDep, body: LoadBody | None = None) -> Response:
    """Serves a model or an adapter from now on, or its new weights; answers with its card."""
    asked = body or LoadBody()
    folder = None if asked.path is None else shelf.folder(asked.path)
    await registry.load(name, Wanted(folder, asked.base, asked.weight))
    return Response(encode_json(registry.model_card(name)), media_type=JSON)


@router.post("/models/{name:path}/unload")
async def unload(name: str, registry: RegistryDep) -> Response:
    """Serves it no more."""
    await registry.unload(name)
    return Response(encode_json({"id": name, "object": "model", "deleted": True}), media_type=JSON)
