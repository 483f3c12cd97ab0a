"""The gateway's API by sections, each with the parts of the platform that it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from fastapi import APIRouter

from lambent.http.authorize import authorize
from lambent.http.sections import Section

if TYPE_CHECKING:
    from lambent.admission.audit import Audit
    from lambent.admission.budgets import BudgetStore
    from lambent.admission.gate import Gate
    from lambent.admission.keys import KeyStore
    from lambent.admission.sessions import Sessions
    from lambent.agents.registry import AgentRegistry
    from lambent.bus.events import EventBus
    from lambent.bus.webhooks import Webhooks
    from lambent.chat.conversations import ConversationStore
    from lambent.chat.service import ChatService
    from lambent.clock import Clock
    from lambent.dispatch import Dispatch
    from lambent.engine.engine import WorkflowEngine
    from lambent.engine.views import RunView
    from lambent.models.manager import ModelManager
    from lambent.postgres import Postgres
    from lambent.schedules.schedules import Schedules
    from lambent.settings import Settings

# Imports stand inside: a section costs nothing until its first request. So do the parts, which the
# platform makes when they are first asked for.


class Parts(Protocol):
    """What the sections take from the platform."""

    @property
    def settings(self) -> Settings: ...
    @property
    def clock(self) -> Clock: ...
    @property
    def keys(self) -> KeyStore: ...
    @property
    def budgets(self) -> BudgetStore: ...
    @property
    def postgres(self) -> Postgres: ...
    @property
    def gate(self) -> Gate: ...
    @property
    def models(self) -> ModelManager: ...
    @property
    def engine(self) -> WorkflowEngine: ...
    @property
    def registry(self) -> AgentRegistry: ...
    @property
    def bus(self) -> EventBus: ...
    @property
    def schedules(self) -> Schedules: ...
    @property
    def webhooks(self) -> Webhooks: ...
    @property
    def conversations(self) -> ConversationStore: ...
    @property
    def chats(self) -> ChatService: ...
    @property
    def dispatch(self) -> Dispatch: ...
    @property
    def audit(self) -> Audit: ...
    @property
    def sessions(self) -> Sessions: ...


def gateway_sections(parts: Parts) -> list[Section]:
    """Every section of the API; a new page or resource is one more entry."""

    def keys() -> APIRouter:
        from lambent.http.keys import keys_router

        return keys_router(parts.keys, authorize, budgets=parts.budgets)

    def runs() -> APIRouter:
        from lambent.chat.idempotency import IdempotencyKeys
        from lambent.http.approvals import add_approvals
        from lambent.http.runs import runs_router

        # Not those of `chats`, which would load all that answers a chat.
        keys = IdempotencyKeys(lambda: parts.engine.store.mongo, clock=parts.clock)
        router = runs_router(parts.engine, authorize, keys=keys)
        add_approvals(router, parts.engine, authorize, keys=keys)
        return router

    def events() -> APIRouter:
        from lambent.http.events import events_router

        return events_router(parts.bus, authorize)

    def schedules() -> APIRouter:
        from lambent.http.schedules import schedules_router

        def check_input(workflow: str, version: int | None, input: Any) -> None:
            # Loads the workflows, so not before there is an input to be checked.
            parts.engine.check_input(workflow, version, input)

        async def runs(ids: Sequence[str], client: str | None) -> list[RunView]:
            return await parts.engine.control.named(ids, client=client)

        return schedules_router(
            parts.schedules, parts.clock, authorize, check_input=check_input, runs=runs
        )

    def webhooks() -> APIRouter:
        from lambent.http.webhooks import webhooks_router

        return webhooks_router(parts.webhooks, parts.dispatch, authorize)

    def conversations() -> APIRouter:
        from lambent.http.conversations import conversations_router

        return conversations_router(parts.conversations, authorize, keys=parts.chats.keys)

    def callbacks() -> APIRouter:
        from lambent.http.callbacks import callbacks_router

        return callbacks_router(parts.engine.callbacks)

    return [
        Section(("keys",), keys),
        Section(("runs", "workflows"), runs),
        Section(("events",), events),
        Section(("schedules",), schedules),
        Section(("webhooks",), webhooks),
        Section(("callbacks",), callbacks),
        Section(("conversations",), conversations),
        *_admin_sections(parts),
    ]


def _admin_sections(parts: Parts) -> list[Section]:
    def audit() -> APIRouter:
        from lambent.http.audit import audit_router

        return audit_router(parts.audit, parts.sessions, authorize)

    def usage() -> APIRouter:
        from lambent.admission.reports import UsageReports
        from lambent.http.usage import usage_router

        reports = UsageReports(parts.postgres)
        return usage_router(reports, parts.budgets, authorize, clock=parts.clock)

    def model_hosts() -> APIRouter:
        from lambent.admission.hosts import HostBoard
        from lambent.http.admin_models import models_router
        from lambent.http.breakers import breakers_router
        from lambent.models.library import ModelLibrary

        board = HostBoard(parts.postgres, parts.gate, hosts=parts.settings.ollama_hosts)
        router = breakers_router(board, authorize, slots=parts.settings.ollama_max_inflight)
        models = models_router(ModelLibrary(parts.models), lambda: parts.engine, authorize)
        router.routes.extend(models.routes)
        return router

    def overview() -> APIRouter:
        from lambent.admission.activity import ActivityReports
        from lambent.engine.census import Census
        from lambent.http.deployed import deployed_router
        from lambent.http.overview import overview_router
        from lambent.poller.backlog import Backlog

        census = Census(parts.engine.store.due, clock=parts.clock)
        router = overview_router(
            parts.engine.control,
            census,
            Backlog(parts.engine.store.mongo, clock=parts.clock),
            activity=ActivityReports(parts.postgres, clock=parts.clock),
            clock=parts.clock,
            slots=parts.settings.ollama_max_inflight,
            authorize=authorize,
        )
        deployed = deployed_router(
            parts.engine,
            census,
            agents=lambda: parts.registry,
            model=parts.settings.ollama_model,
            authorize=authorize,
        )
        router.routes.extend(deployed.routes)
        return router

    return [
        Section(("admin",), model_hosts),
        Section(("usage", "budgets"), usage),
        Section(("audit", "sessions"), audit),
        Section(("overview",), overview),
    ]
