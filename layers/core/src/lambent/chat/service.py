"""`ChatService`: takes a chat from the caller's key to a running turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from lambent.admission import limits
from lambent.admission.decisions import AdmissionRequest, Refused, Scope
from lambent.admission.gate import Gate
from lambent.agents.registry import AgentRegistry
from lambent.chat.live_turn import LiveTurn
from lambent.chat.turn_work import Parts, TurnWork
from lambent.chat.values import ChatRequest, Refusal
from lambent.clock import Clock
from lambent.ids import new_ulid
from lambent.models.manager import ModelManager
from lambent.settings import Settings

if TYPE_CHECKING:
    from lambent.engine.engine import WorkflowEngine


class ChatService:
    """Joins admission, agents and models; one for each environment."""

    def __init__(
        self,
        *,
        gate: Gate,
        registry: AgentRegistry,
        models: ModelManager,
        settings: Settings,
        clock: Clock,
        engine: Callable[[], WorkflowEngine] | None = None,
    ) -> None:
        self._gate = gate
        self.registry = registry
        self.settings = settings
        self.clock = clock
        self._models = models
        self._parts = Parts(
            gate=gate,
            models=models,
            settings=settings,
            clock=clock,
            engine=engine,
        )
        self._live: set[LiveTurn] = set()

    def model_for(self, request: ChatRequest) -> str:
        """The request's model, else the agent's, else the deployment's."""
        if request.model is not None:
            return request.model
        if request.agent in self.registry and (own := self.registry.info(request.agent).model):
            return own
        return self.settings.ollama_model

    async def check(self, credential: str | None) -> Mapping[str, str] | Refusal:
        """Key and limit alone, for what calls no model: the limit's headers, or a refusal.

        Raises `StoreUnavailable`.
        """
        decision = await self._gate.admit(AdmissionRequest(credential=credential, scope=Scope.CHAT))
        headers = limits.headers(decision.limit)
        return Refusal(decision.error, headers) if isinstance(decision, Refused) else headers

    async def start(self, request: ChatRequest, *, credential: str | None) -> LiveTurn | Refusal:
        """Ask the decision tree, then let the turn run. Raises `StoreUnavailable`."""
        decision = await self._gate.admit(
            AdmissionRequest(
                credential=credential,
                scope=Scope.CHAT,
                agent_exists=request.agent in self.registry,
                host=self._models.host,
                slot=True,
            )
        )
        headers = limits.headers(decision.limit)
        if isinstance(decision, Refused):
            return Refusal(decision.error, headers)
        work = TurnWork(
            request,
            decision,
            agent=self.registry.get(request.agent),
            model=self.model_for(request),
            parts=self._parts,
        )
        live = LiveTurn(id=new_ulid(self.clock), headers=headers, work=work.run, book=work.book)
        self._live.add(live)
        live.on_end(lambda: self._live.discard(live))
        return live

    def stop(self) -> None:
        """End every turn now, with an error frame each: the environment is going away."""
        for live in tuple(self._live):
            live.cancel()
