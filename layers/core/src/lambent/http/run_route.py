"""Routes the event streams of runs on the chat function: of one run, and of a list of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.routing import Route

from lambent.admission.decisions import AdmissionRequest, Admitted, Refused, Scope
from lambent.admission.gate import Gate
from lambent.admission.keys import credential_of
from lambent.admission.limits import headers as limit_headers
from lambent.admission.sessions import is_page_token
from lambent.clock import Clock
from lambent.errors import Forbidden
from lambent.http.problems import Rejected

if TYPE_CHECKING:
    from lambent.engine.engine import WorkflowEngine

# Before the function's own time is over, which would count as its failure.
_LONGEST_S: Final = 240.0


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who may watch: `client` is whose runs, None everybody's; for at most `longest_s`."""

    client: str | None
    longest_s: float
    headers: Mapping[str, str]
    last_event_id: str


def run_events_routes(
    engine: Callable[[], WorkflowEngine],
    *,
    gate: Gate,
    keep_alive_s: float,
    page_s: float,
    clock: Clock,
) -> list[Route]:
    """`engine` is called at the first request: a chat does not pay for loading it.

    `page_s`: what a stream to an admin page, or of a list, lasts at most; whoever reads it comes
    back with the last id.
    """

    async def watcher(request: Request) -> Watcher:
        sent = request.headers
        credential = credential_of(sent.get("authorization"), sent.get("x-api-key"))
        decision = await gate.admit(AdmissionRequest(credential=credential, scope=None))
        headers = limit_headers(decision.limit)
        if isinstance(decision, Refused):
            raise Rejected(decision.error, headers)
        assert isinstance(decision, Admitted)
        principal = decision.principal
        everybody = principal.may(Scope.ADMIN_READ)
        if not (everybody or principal.may(Scope.RUNS)):
            raise Rejected(Forbidden("This needs a key with the scope 'runs'."), headers)
        return Watcher(
            client=None if everybody else principal.client,
            longest_s=page_s if is_page_token(credential) else _LONGEST_S,
            headers=headers,
            last_event_id=sent.get("last-event-id", ""),
        )

    async def run_events(request: Request) -> Any:
        from lambent.http.run_events import RunEvents

        who = await watcher(request)
        return RunEvents(
            engine().control,
            request.path_params["run_id"],
            client=who.client,
            last_event_id=who.last_event_id,
            keep_alive_s=keep_alive_s,
            clock=clock,
            longest_s=who.longest_s,
            headers=who.headers,
        )

    async def list_events(request: Request) -> Any:
        from lambent.engine.census import Census
        from lambent.http.run_list_events import RunListEvents, WatchedList

        who = await watcher(request)
        asked = WatchedList.of(request.query_params)
        return RunListEvents(
            engine().control,
            Census(engine().store.due, clock=clock),
            asked,
            client=who.client,
            last_event_id=who.last_event_id,
            keep_alive_s=keep_alive_s,
            clock=clock,
            # It has no end of its own, and no hang-up is told.
            longest_s=page_s,
            headers=who.headers,
        )

    return [
        # First: else it is the stream of a run of that name.
        Route("/runs/counts/events", list_events, methods=["GET"]),
        Route("/runs/{run_id}/events", run_events, methods=["GET"]),
    ]
