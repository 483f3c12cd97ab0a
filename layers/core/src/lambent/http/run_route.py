"""Routes `GET /runs/{id}/events` on the chat function to a stream of the run's progress."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

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
    from lambent.engine.control import RunControl


def run_events_route(
    control: Callable[[], RunControl],
    *,
    gate: Gate,
    keep_alive_s: float,
    page_s: float,
    clock: Clock,
) -> Route:
    """`control` is called at the first request: a chat does not pay for loading the engine.

    `page_s`: what a stream to an admin page lasts at most; the page comes back by itself.
    """

    async def run_events(request: Request) -> Any:
        from lambent.http.run_events import RunEvents

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
        return RunEvents(
            control(),
            request.path_params["run_id"],
            client=None if everybody else principal.client,
            last_event_id=sent.get("last-event-id", ""),
            keep_alive_s=keep_alive_s,
            clock=clock,
            longest_s=page_s if is_page_token(credential) else None,
            headers=headers,
        )

    return Route("/runs/{run_id}/events", run_events, methods=["GET"])
