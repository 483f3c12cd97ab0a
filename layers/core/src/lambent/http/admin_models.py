"""Models on the model servers over HTTP, for admins: list, show, pull, load, unload, delete."""

# No postponed annotations here: FastAPI has to see the dependencies made inside the function.

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from lambent.admission.decisions import Principal, Scope
from lambent.agents.model_pulls import PULL
from lambent.engine.engine import WorkflowEngine
from lambent.http.audited import note_audit
from lambent.models.library import ModelLibrary, Shelf

_HOST = Field(default=None, max_length=300, description="One of `hosts`; the first if left out.")


class ModelView(BaseModel):
    """A model that a server holds."""

    name: str
    size_bytes: int
    family: str
    parameter_size: str
    quantization: str
    digest: str
    modified_at: str
    loaded: bool
    vram_bytes: int
    expires_at: str | None = Field(description="When it will be unloaded, where it is loaded.")


class ShelfView(BaseModel):
    """One model server."""

    host: str
    error: str | None = Field(description="Why it does not answer.")
    models: list[ModelView]


class ModelList(BaseModel):
    """Every model server."""

    hosts: list[ShelfView]


class DetailsView(BaseModel):
    """What a server tells of one model."""

    name: str
    capabilities: list[str]
    context_tokens: int | None
    family: str
    parameter_size: str
    quantization: str


class ModelBody(BaseModel):
    """A model on a server."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"model": "llama3.2:1b"}]}
    )

    model: str = Field(min_length=1, max_length=200, examples=["llama3.2:1b"])
    host: str | None = _HOST


class LoadBody(ModelBody):
    """A model to load."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "llama3.2:1b", "keep_alive": "30m"}]}
    )

    keep_alive: float | str | None = Field(
        default=None, description="Seconds, or such as `5m`; -1 for ever; else the server's own."
    )


class PullView(BaseModel):
    """The run that pulls; `GET /runs/{run}/events` tells its progress."""

    run: str


def models_router(
    library: ModelLibrary,
    engine: Callable[[], WorkflowEngine],
    authorize: Callable[[Scope], Callable[..., Any]],
) -> APIRouter:
    """`/admin/models`; reading needs `admin:read`, changing needs `admin`."""
    router = APIRouter(prefix="/admin/models", tags=["model hosts"])
    reader = Annotated[Principal, Depends(authorize(Scope.ADMIN_READ))]
    admin = Annotated[Principal, Depends(authorize(Scope.ADMIN))]

    @router.get("")
    async def list_host_models(_: reader) -> ModelList:
        """What each server holds, and has loaded."""
        return ModelList(hosts=[_shelf(one) for one in await library.shelves()])

    @router.get("/{model:path}")
    async def show_model(
        model: str, _: reader, host: Annotated[str | None, Query(max_length=300)] = None
    ) -> DetailsView:
        """What a server tells of one model."""
        return DetailsView(**asdict(await library.show(model, host=host)))

    @router.post("/pull", status_code=202)
    async def pull_model(request: Request, body: ModelBody, caller: admin) -> PullView:
        """Fetch a model onto a server, as a durable run that tells its progress."""
        note_audit(request, target=body.model)
        wanted = {"model": body.model, "host": library.checked(body.host)}
        started = await engine().start_internal(
            PULL, wanted, client=caller.client, key=None, version=1, nudge=True
        )
        return PullView(run=str(started.run["_id"]))

    @router.post("/load", status_code=204)
    async def load_model(request: Request, body: LoadBody, _: admin) -> None:
        """Load a model into a server's memory."""
        note_audit(request, target=body.model)
        await library.load(body.model, host=body.host, keep_alive=body.keep_alive)

    @router.post("/unload", status_code=204)
    async def unload_model(request: Request, body: ModelBody, _: admin) -> None:
        """Free a server's memory of a model."""
        note_audit(request, target=body.model)
        await library.unload(body.model, host=body.host)

    @router.delete("/{model:path}", status_code=204)
    async def delete_model(
        model: str, _: admin, host: Annotated[str | None, Query(max_length=300)] = None
    ) -> None:
        """Delete a model from a server's disk."""
        await library.delete(model, host=host)

    return router


def _shelf(shelf: Shelf) -> ShelfView:
    loaded = {one.name: one for one in shelf.loaded}
    models = []
    for one in shelf.held:
        running = loaded.get(one.name)
        models.append(
            ModelView(
                **asdict(one),
                loaded=running is not None,
                vram_bytes=running.vram_bytes if running else 0,
                expires_at=running.expires_at if running else None,
            )
        )
    return ShelfView(host=shelf.host, error=shelf.error, models=models)
