"""Wires the platform together, each part when it is first asked for; nothing else does."""

from __future__ import annotations

from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from lambent.clock import SystemClock
from lambent.settings import Settings, load_settings
from lambent.telemetry import logger, set_level

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from lambent.admission.gate import Gate
    from lambent.admission.keys import KeyStore
    from lambent.agents.registry import AgentRegistry
    from lambent.chat.service import ChatService
    from lambent.models.manager import ModelManager
    from lambent.mongo import Mongo
    from lambent.postgres import Postgres

# Imports stand inside the properties: a function pays at its cold start only for what it uses.


class Platform:
    """What one environment holds. Connections are opened by their first use, never here."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.clock = SystemClock()

    @cached_property
    def postgres(self) -> Postgres:
        from lambent.postgres import Postgres

        return Postgres(self.settings.postgres_dsn, clock=self.clock)

    @cached_property
    def mongo(self) -> Mongo:
        from lambent.mongo import Mongo

        return Mongo(self.settings.mongo_uri, self.settings.mongo_db_name, clock=self.clock)

    @cached_property
    def models(self) -> ModelManager:
        from lambent.models.manager import ModelManager

        return ModelManager(self.settings, clock=self.clock)

    @cached_property
    def gate(self) -> Gate:
        from lambent.admission.decisions import AdmissionConfig
        from lambent.admission.gate import Gate

        config = AdmissionConfig.of(self.settings)
        return Gate(self.postgres, clock=self.clock, config=config)

    @cached_property
    def keys(self) -> KeyStore:
        from lambent.admission.keys import KeyStore

        return KeyStore(self.postgres, clock=self.clock)

    @cached_property
    def registry(self) -> AgentRegistry:
        from lambent.agents.registry import AgentRegistry

        return AgentRegistry.load(self.settings.agent_modules)

    @cached_property
    def chats(self) -> ChatService:
        from lambent.chat.service import ChatService

        return ChatService(
            gate=self.gate,
            registry=self.registry,
            models=self.models,
            settings=self.settings,
            clock=self.clock,
        )

    async def ping_models(self) -> None:
        """Raises `Unavailable` unless the model server answers."""
        await self.models.ping()


@cache
def platform() -> Platform:
    """The environment's platform. Raises `ConfigError` that lists every problem."""
    settings = load_settings()
    set_level(settings.log_level)
    return Platform(settings)


def chat_app() -> ASGIApp:
    """The chat function's streaming application."""
    from lambent.http.chat_app import build_chat_app

    return build_chat_app(platform().chats)


def stop_chats() -> None:
    """End every chat of this environment, each with an error frame: it is going away."""
    platform().chats.stop()


def gateway_app() -> ASGIApp:
    """The gateway function's buffered application."""
    from lambent.http.authorize import authorize
    from lambent.http.gateway_app import build_gateway_app
    from lambent.http.keys import keys_router

    parts = platform()
    return build_gateway_app(
        gate=parts.gate,
        clock=parts.clock,
        pings={
            "postgres": parts.postgres.ping,
            "mongo": parts.mongo.ping,
            "models": parts.ping_models,
        },
        routers=[keys_router(parts.keys, authorize)],
    )


async def run_setup(event: dict[str, Any]) -> dict[str, Any]:
    """Create or update tables and indexes, and the first admin key. Safe to run twice or at once.

    Answers `{"applied": [names of SQL files], "admin_key": text or None}`: the key's text only
    where this call made it, or was given it as `admin_secret`.
    """
    from lambent.admission.migrate import migrate

    parts = platform()
    applied = await migrate(parts.postgres)
    admin = await parts.keys.ensure_admin(secret=event.get("admin_secret"))
    logger().info("Setup is done", extra={"applied": applied, "admin_key_made": bool(admin.text)})
    return {"applied": applied, "admin_key": admin.text}
