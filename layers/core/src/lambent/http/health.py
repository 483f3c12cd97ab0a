"""Answers whether this function lives, and whether each service behind it answers a ping."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel, Field

from lambent import __version__
from lambent.clock import Clock
from lambent.errors import LambentError

Ping = Callable[[], Awaitable[None]]
_PING_LIMIT_S = 3.0


class Live(BaseModel):
    """The function itself is there."""

    status: Literal["ok"] = "ok"
    version: str = Field(examples=["0.1.0"])


class Check(BaseModel):
    """What one service answered to its ping."""

    status: Literal["ok", "failed"]
    ms: float = Field(description="How long the ping took, in milliseconds.", examples=[1.2])
    detail: str | None = Field(default=None, examples=["Postgres does not answer."])


class Ready(BaseModel):
    """Ready only if every service is."""

    status: Literal["ok", "failed"]
    services: dict[str, Check]


def health_router(pings: Mapping[str, Ping], clock: Clock) -> APIRouter:
    """`/health/live` asks nothing; `/health/ready` pings all at once and answers 200 or 503."""
    router = APIRouter(prefix="/health", tags=["health"])

    async def check(ping: Ping) -> Check:
        began_s = clock.monotonic_s()
        detail = None
        try:
            async with asyncio.timeout(_PING_LIMIT_S):
                await ping()
        except TimeoutError:
            detail = f"No answer within {_PING_LIMIT_S:g} s."
        except LambentError as error:
            detail = error.detail
        return Check(
            status="failed" if detail else "ok",
            ms=round((clock.monotonic_s() - began_s) * 1000, 1),
            detail=detail,
        )

    @router.get("/live")
    async def live() -> Live:
        return Live(version=__version__)

    @router.get("/ready", responses={503: {"model": Ready}})
    async def ready(response: Response) -> Ready:
        checks = await asyncio.gather(*(check(ping) for ping in pings.values()))
        services = dict(zip(pings, checks, strict=True))
        failed = any(one.status == "failed" for one in checks)
        if failed:
            response.status_code = 503
            response.headers["Retry-After"] = "2"
        return Ready(status="failed" if failed else "ok", services=services)

    return router
