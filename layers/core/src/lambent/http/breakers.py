"""Model hosts over HTTP, for admins: breakers, slots and queues, their history, trip and reset."""

# No postponed annotations here: FastAPI has to see the dependencies made inside the function.

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field

from lambent.admission.decisions import Principal, Scope
from lambent.admission.hosts import HostBoard, HostState


class SlotView(BaseModel):
    """A generation that goes on, or whose function died less than a lease ago."""

    number: int
    client: str
    held_s: float
    lease_left_s: float


class WaiterView(BaseModel):
    """Who waits for a slot."""

    client: str
    position: int


class HostView(BaseModel):
    """A model host as all functions see it."""

    host: str
    configured: bool = Field(
        description="Whether the settings name it; another one was only seen before."
    )
    state: str = Field(description="closed, open or half_open.", examples=["closed"])
    generation: int
    failures: int = Field(description="In a row, while closed.")
    successes: int = Field(description="Of probes, while half open.")
    opens_in_s: float | None = Field(description="Until a probe may be taken, while open.")
    probing: bool
    changed_at: datetime | None
    in_flight: int
    slots: list[SlotView]
    waiting: list[WaiterView]
    generation_s: float | None = Field(
        description="How long generations held a slot lately; null before the first."
    )


class HostList(BaseModel):
    """Every model host."""

    hosts: list[HostView]
    slots: int = Field(description="Generations at once on one host.", examples=[4])


class ChangeView(BaseModel):
    """A breaker's change of state."""

    id: int
    host: str
    at: datetime
    was: str
    state: str
    generation: int
    failures: int
    by_hand: bool


class ChangeList(BaseModel):
    """A page, newest first."""

    changes: list[ChangeView]
    cursor: int | None = Field(description="Ask with it for the next page; null on the last.")


class TripRequest(BaseModel):
    """For how long a breaker is to stay open."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"open_s": 60}]})

    open_s: float | None = Field(
        default=None, ge=0.1, le=86400, description="Seconds; null: as long as failures would."
    )


def breakers_router(
    board: HostBoard, authorize: Callable[[Scope], Callable[..., Any]], *, slots: int
) -> APIRouter:
    """`/admin/breakers`; reading needs `admin:read`, changing needs `admin`."""
    router = APIRouter(prefix="/admin/breakers", tags=["model hosts"])
    reader = Annotated[Principal, Depends(authorize(Scope.ADMIN_READ))]
    admin = Annotated[Principal, Depends(authorize(Scope.ADMIN))]

    @router.get("")
    async def list_breakers(_: reader) -> HostList:
        """Every model host with its breaker, its generations under way and its queue."""
        return HostList(hosts=[_view(one) for one in await board.states()], slots=slots)

    @router.get("/history")
    async def list_breaker_changes(
        _: reader,
        host: Annotated[str | None, Query(max_length=300)] = None,
        cursor: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> ChangeList:
        """What the breakers went through in the last 90 days."""
        page = await board.history(host=host, before=cursor, limit=limit)
        changes = [ChangeView(**asdict(one)) for one in page.changes]
        return ChangeList(changes=changes, cursor=page.cursor)

    @router.post("/{host:path}/trip", status_code=204)
    async def trip_breaker(
        host: str,
        _: admin,
        body: TripRequest | None = None,
    ) -> None:
        """Open the host's breaker, for `open_s` seconds or as long as failures would."""
        await board.trip(host, open_s=body.open_s if body is not None else None)

    @router.post("/{host:path}/reset", status_code=204)
    async def reset_breaker(host: str, _: admin) -> None:
        """Close the host's breaker; results still under way no longer count."""
        await board.reset(host)

    return router


def _view(one: HostState) -> HostView:
    breaker = one.breaker
    return HostView(
        host=one.host,
        configured=one.configured,
        state=breaker.state if breaker else "closed",
        generation=breaker.generation if breaker else 0,
        failures=breaker.failures if breaker else 0,
        successes=breaker.successes if breaker else 0,
        opens_in_s=breaker.opens_in_s if breaker else None,
        probing=breaker.probing if breaker else False,
        changed_at=breaker.changed_at if breaker else None,
        in_flight=len(one.slots),
        slots=[SlotView(**_but_host(slot)) for slot in one.slots],
        waiting=[WaiterView(**_but_host(waiter)) for waiter in one.waiting],
        generation_s=one.generation_s,
    )


def _but_host(value: Any) -> dict[str, Any]:
    return {name: part for name, part in asdict(value).items() if name != "host"}
