"""Wires the platform together, each part when it is first asked for; nothing else does."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING

from lambent import metrics, tracing
from lambent.clock import SystemClock
from lambent.first_aid import plainly, started_plainly
from lambent.invocation import reporting
from lambent.rotation import RotatingSecret
from lambent.settings import Settings, load_settings, look_up_again
from lambent.telemetry import correlated, set_level

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from lambent.admission.audit import Audit
    from lambent.admission.budgets import BudgetStore
    from lambent.admission.gate import Gate
    from lambent.admission.keys import KeyStore
    from lambent.admission.sessions import Secret, Sessions
    from lambent.agents.mcp_servers import McpServers
    from lambent.agents.memory import Memory
    from lambent.agents.registry import AgentRegistry
    from lambent.agents.step_model import StepModel
    from lambent.bus.delivery import Deliverer
    from lambent.bus.events import EventBus
    from lambent.bus.sending import WebhookSender
    from lambent.bus.webhooks import Webhooks
    from lambent.chat.conversations import ConversationStore
    from lambent.chat.durable_chats import DurableChats
    from lambent.chat.service import ChatService
    from lambent.dispatch import Dispatch
    from lambent.engine.engine import WorkflowEngine
    from lambent.models.manager import ModelManager
    from lambent.mongo import Mongo
    from lambent.poller.generation import PollerBell
    from lambent.poller.poller import Poller
    from lambent.postgres import Postgres
    from lambent.schedules.schedules import Schedules
    from lambent.schedules.ticker import Ticker

# What deliver keeps back to put off what it could not finish, and the poller to say goodbye.
_DELIVER_RESERVE_S = 5.0
_POLL_RESERVE_S = 2.0
# How an environment is made where nobody waits for it: then nothing is put off to a first request.
_PREPARED = ("snap-start", "provisioned-concurrency")

# Imports stand inside the properties: a function pays at its cold start only for what it uses.


class Platform:
    """What one environment holds. Connections are opened by their first use, never here."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.clock = SystemClock()

    def _secret(self, name: str, value: str) -> RotatingSecret:
        return RotatingSecret(name, value, clock=self.clock, look_up=partial(look_up_again, name))

    @cached_property
    def _mongo_uri(self) -> RotatingSecret:
        return self._secret("MONGO_URI", self.settings.mongo_uri)

    @cached_property
    def postgres(self) -> Postgres:
        from lambent.postgres import Postgres

        settings = self.settings
        dsn = self._secret("POSTGRES_DSN", settings.postgres_dsn)
        return Postgres(dsn, clock=self.clock, ca=settings.postgres_ca)

    @cached_property
    def mongo(self) -> Mongo:
        from lambent.mongo import Mongo

        settings = self.settings
        return Mongo(
            self._mongo_uri, settings.mongo_db_name, clock=self.clock, ca=settings.mongo_ca
        )

    @cached_property
    def models(self) -> ModelManager:
        from lambent.models.manager import ModelManager

        key = self._secret("OLLAMA_API_KEY", self.settings.ollama_api_key)
        return ModelManager(self.settings, clock=self.clock, key=key)

    @cached_property
    def gate(self) -> Gate:
        from lambent.admission.decisions import AdmissionConfig
        from lambent.admission.sessions import SessionGate

        config = AdmissionConfig.of(self.settings)
        return SessionGate(self.postgres, secret=self.secret, clock=self.clock, config=config)

    @cached_property
    def secret(self) -> Secret:
        from lambent.admission.sessions import Secret

        return Secret(self.postgres)

    @cached_property
    def sessions(self) -> Sessions:
        from lambent.admission.sessions import Sessions

        return Sessions(
            self.postgres,
            gate=self.gate,
            secret=self.secret,
            clock=self.clock,
            auth_enabled=self.settings.auth_enabled,
        )

    @cached_property
    def audit(self) -> Audit:
        from lambent.admission.audit import Audit

        return Audit(self.postgres, clock=self.clock)

    @cached_property
    def keys(self) -> KeyStore:
        from lambent.admission.keys import KeyStore

        return KeyStore(self.postgres, clock=self.clock)

    @cached_property
    def budgets(self) -> BudgetStore:
        from lambent.admission.budgets import BudgetStore

        return BudgetStore(self.postgres)

    @cached_property
    def registry(self) -> AgentRegistry:
        from lambent.agents.registry import AgentRegistry

        servers = [one.name for one in self.settings.mcp_servers]
        return AgentRegistry.load(self.settings.agent_modules, mcp_servers=servers)

    @cached_property
    def chats(self) -> ChatService:
        from lambent.chat.service import ChatService

        return ChatService(
            gate=self.gate,
            registry=self.registry,
            models=self.models,
            settings=self.settings,
            clock=self.clock,
            engine=lambda: self.engine,
            mongo=lambda: self.mongo,
            bus=lambda: self.bus,
            durable=lambda: self.durable_chats,
            memory=lambda: self.memory,
            mcp=lambda: self.mcp,
        )

    @property
    def conversations(self) -> ConversationStore:
        return self.chats.conversations

    @cached_property
    def durable_chats(self) -> DurableChats:
        from lambent.chat.durable_chats import durable_chats_of

        return durable_chats_of(self)

    @cached_property
    def memory(self) -> Memory:
        from lambent.agents.memory import Memory

        return Memory(self.postgres)

    @cached_property
    def mcp(self) -> McpServers:
        from lambent.agents.mcp_servers import McpServers

        tokens = self._secret("MCP_TOKENS", self.settings.mcp_tokens)
        return McpServers(self.settings.mcp_servers, tokens, clock=self.clock)

    @cached_property
    def step_model(self) -> StepModel:
        from lambent.agents.step_model import StepModel

        return StepModel(self.models, self.gate, default_model=self.settings.ollama_model)

    @cached_property
    def dispatch(self) -> Dispatch:
        from lambent.dispatch import Dispatch, credentials_of, lanes_of

        settings = self.settings
        return Dispatch(
            lanes_of(settings),
            clock=self.clock,
            region=settings.aws_region,
            endpoint_url=settings.aws_endpoint_url_lambda,
            source=credentials_of(settings),
        )

    @cached_property
    def bell(self) -> PollerBell:
        from lambent.poller.generation import PollerBell

        return PollerBell(self.mongo, clock=self.clock, nudges=self.dispatch)

    @cached_property
    def engine(self) -> WorkflowEngine:
        from lambent.agents.model_pulls import pull_workflow
        from lambent.agents.modules import import_modules
        from lambent.bus.events import StepEvents
        from lambent.chat.upkeep import upkeep_workflows
        from lambent.engine.config import EngineConfig
        from lambent.engine.engine import MongoStore, WorkflowEngine
        from lambent.engine.registry import Registry, registry
        from lambent.leases import LeaseKeeper
        from lambent.models.library import ModelLibrary

        settings = self.settings
        import_modules(settings.agent_modules)  # their workflows register themselves
        workflows = Registry(longest_step_s=registry.longest_step_s)
        pull = pull_workflow(ModelLibrary(self.models))
        upkeep = upkeep_workflows(lambda: self.conversations, self.step_model)
        for one in (*registry.all(), *self.durable_chats.turns.workflows(), pull, *upkeep):
            workflows.add(one)
        config = EngineConfig(
            retention_s=settings.retention_days * 86400,
            callback_base_url=settings.callback_base_url,
        )
        keeper = LeaseKeeper(
            self._mongo_uri, settings.mongo_db_name, clock=self.clock, ca=settings.mongo_ca
        )
        return WorkflowEngine(
            MongoStore(self.mongo, clock=self.clock, config=config, keeper=keeper),
            workflows=workflows,
            config=config,
            nudger=_RunNudges(self.dispatch, self.bell),
            model=self.step_model,
            events=StepEvents(lambda: self.bus),
        )

    @cached_property
    def deliverer(self) -> Deliverer:
        from lambent.bus.delivery import Deliverer
        from lambent.bus.webhooks import WebhookQueue

        return Deliverer(
            self.mongo,
            clock=self.clock,
            runs=self.engine.store.due,
            starts=self.engine,
            webhooks=WebhookQueue(self.mongo, clock=self.clock),
            nudges=self.dispatch,
            retention=timedelta(days=self.settings.retention_days),
            bell=self.bell,
        )

    @cached_property
    def bus(self) -> EventBus:
        from lambent.bus.events import EventBus

        return EventBus(self.mongo, clock=self.clock, deliverer=self.deliverer)

    @cached_property
    def webhooks(self) -> Webhooks:
        from lambent.bus.webhooks import Webhooks

        allow = self.settings.webhook_allow_loopback
        return Webhooks(self.mongo, clock=self.clock, allow_loopback=allow)

    @cached_property
    def sender(self) -> WebhookSender:
        from lambent.bus.sending import WebhookSender

        allow = self.settings.webhook_allow_loopback
        return WebhookSender(self.mongo, clock=self.clock, allow_loopback=allow, bell=self.bell)

    @cached_property
    def schedules(self) -> Schedules:
        from lambent.schedules.schedules import Schedules

        return Schedules(self.mongo, clock=self.clock, bell=self.bell)

    @cached_property
    def ticker(self) -> Ticker:
        from lambent.schedules.ticker import Ticker

        return Ticker(self.mongo, clock=self.clock, starts=self.engine)

    @cached_property
    def poller(self) -> Poller:
        from lambent.poller.poller import Poller
        from lambent.poller.sources import all_sources

        sources = all_sources(self.mongo, self.settings, clock=self.clock, nudges=self.dispatch)
        return Poller(self.mongo, sources, clock=self.clock)

    async def ping_models(self) -> None:
        """Raises `Unavailable` unless a model server answers."""
        from lambent.agents.model_hosts import ModelHosts

        await ModelHosts(self.models).ping()


class _RunNudges:
    """Dispatch as the engine asks for it. What the engine nudges is always news about a run."""

    def __init__(self, dispatch: Dispatch, bell: PollerBell) -> None:
        self._dispatch = dispatch
        self._bell = bell

    async def nudge(self, run_ids: Sequence[str]) -> None:
        from lambent.dispatch import Work

        await self._dispatch.nudge(Work.RUNS, run_ids, news=True)

    async def ring(self, due_at: datetime) -> None:
        await self._bell.ring(due_at)


@cache
@started_plainly
def platform() -> Platform:
    """The environment's platform. Raises `ConfigError` that lists every problem."""
    settings = load_settings()
    set_level(settings.log_level)
    metrics.name_stack(settings.stack_name)
    tracing.configure(settings)
    return Platform(settings)


@started_plainly
def chat_app() -> ASGIApp:
    """The chat function's streaming application."""
    from lambent.http.chat_app import build_chat_app
    from lambent.http.run_route import run_events_routes

    parts = platform()
    watching = run_events_routes(
        lambda: parts.engine,
        gate=parts.gate,
        keep_alive_s=parts.settings.keep_alive_s,
        page_s=parts.settings.live_stream_s,
        clock=parts.clock,
    )
    return build_chat_app(parts.chats, more=watching)


def stop_chats() -> None:
    """End every chat of this environment, each with an error frame: it is going away."""
    platform().chats.stop()


@started_plainly
def gateway_app() -> ASGIApp:
    """The gateway function's buffered application."""
    from lambent.http.gateway_app import build_gateway_app
    from lambent.http.gateway_sections import gateway_sections

    parts = platform()
    return build_gateway_app(
        gate=parts.gate,
        clock=parts.clock,
        pings={
            "postgres": parts.postgres.ping,
            "mongo": parts.mongo.ping,
            "models": parts.ping_models,
        },
        sections=gateway_sections(parts),
        prepared=parts.settings.aws_lambda_initialization_type in _PREPARED,
        audit=parts.audit,
        pages=lambda api: admin_pages(parts, api),
        origin_secrets=parts.settings.origin_secrets,
        chat_base=parts.settings.chat_base_url,
    )


def admin_pages(parts: Platform, api: ASGIApp) -> ASGIApp:
    """The admin pages over the API; loaded by the first request for one."""
    from lambent.http.admin.application import build_pages

    return build_pages(
        api, sessions=parts.sessions, audit=parts.audit, clock=parts.clock, settings=parts.settings
    )


@plainly
async def advance_runs(
    run_ids: Sequence[str], *, left_s: float, early: bool = False, invocation: str = ""
) -> int:
    """Advance these runs by a slice each; `left_s` is what the invocation has left. `early`: the
    wake of them may still be on its way."""
    from lambent.engine.tenure import Did

    parts = platform()
    ends_s = parts.clock.monotonic_s() + left_s
    async with reporting(), parts.mongo.expecting_indexes("runs"):
        with correlated(invocation=invocation):
            verdicts = await parts.engine.advance(run_ids, ends_s=ends_s, early=early)
        taken = [one for one in verdicts.values() if one.did is not Did.NOTHING]
        if taken:
            # After the settles: a run that is due before the next tick must find a poller awake.
            await parts.bell.ring(min(one.due_at for one in taken))
        for one in taken:
            if one.error is not None:
                # The bell is rung for all; now whoever watches over this function may hear of it.
                raise one.error
        return len(taken)


def stop_runs() -> None:
    """Settle every slice at once: this environment is going away."""
    platform().engine.stop()


@plainly
async def deliver_due(work: Mapping[str, Sequence[str]], *, left_s: float) -> dict[str, int]:
    """Hand out events, call webhooks and tick schedules, each by its ids."""
    from lambent.dispatch import Work

    parts = platform()
    deadline_s = parts.clock.monotonic_s() + left_s - _DELIVER_RESERVE_S
    async with reporting(), parts.mongo.expecting_indexes("events"):
        events, webhooks, ticks = await asyncio.gather(
            parts.deliverer.deliver_due(work.get(Work.EVENTS, ()), deadline_s=deadline_s),
            parts.sender.send_due(work.get(Work.WEBHOOKS, ()), deadline_s=deadline_s),
            parts.ticker.tick_due(work.get(Work.SCHEDULES, ())),
        )
    return {"events": len(events), "webhooks": len(webhooks), "ticks": ticks}


@plainly
async def poll_due(*, left_s: float) -> str:
    """Watch over due documents until nothing is due soon; answers why the poller ended."""
    parts = platform()
    deadline_s = parts.clock.monotonic_s() + left_s - _POLL_RESERVE_S
    async with reporting(), parts.mongo.expecting_indexes("runs"):
        return await parts.poller.watch(deadline_s=deadline_s)


def stop_poller() -> None:
    """Leave at the next look: this environment is going away."""
    platform().poller.stop()
