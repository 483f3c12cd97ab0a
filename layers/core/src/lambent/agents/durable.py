"""`DurableTurns`: the turns of durable agents as runs, each model and tool call a step.

The workflow `agent.<name>` is the same loop as `tool_agent.tool_loop`. What a step came to is on
record before anything follows from it, so no finished call is made twice; `turn_stream` sees to it
that readers are told each thing once, whoever goes on with the run.

A tool that needs approval opens a callback, whose token nobody gets to see: a model can publish
any event that its caller may, but it cannot answer for the person who is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from lambent.agents.agent import AgentInfo
from lambent.agents.registry import AgentRegistry
from lambent.agents.tool_agent import NO_MORE, ToolAgent, call_id, opening
from lambent.agents.tool_calls import (
    AT_ONCE,
    ApprovalAwaited,
    ToolEnded,
    ToolStarted,
    fits,
    run_tool,
)
from lambent.agents.tool_context import Caller, Means, ToolContext
from lambent.agents.tool_uses import ToolUses
from lambent.agents.tools import Tool, by_name
from lambent.agents.turn_frames import awaited_body, ended_body, started_body, usage_body
from lambent.agents.turn_input import (
    Exchange,
    Exchanges,
    message_of,
    message_record,
    place_in,
)
from lambent.agents.turn_stream import TurnStream, error_body
from lambent.clock import FAR_FUTURE
from lambent.engine.registry import Workflow
from lambent.engine.step import Step
from lambent.errors import (
    CallbackFailed,
    Cancelled,
    Conflict,
    Interrupted,
    LambentError,
    ModelRefused,
    PromptTooLong,
    StepFailed,
    StreamStopped,
    UnknownModel,
    WaitTimedOut,
)
from lambent.models.values import Message, Role, ToolCall, Usage
from lambent.streams.values import LEASE_LAPSED, RUN_LEASE, Dialect, Stream, StreamStatus
from lambent.telemetry import log_fields, logger

if TYPE_CHECKING:
    from lambent.models.values import Embeddings
    from lambent.streams.log import StreamLog
    from lambent.streams.store import StreamStore

APPROVAL_S: Final = 7 * 86400.0
_KEPT_AFTER: Final = timedelta(days=1)
# A model call's limit; a slice with less than that left begins none.
_MODEL_S: Final = 300.0
NAMED: Final = (UnknownModel, ModelRefused, PromptTooLong)
# What a step gets beside its tool's own limit, to tell how it went.
_GRACE_S: Final = 5.0
_KEEP_S: Final = 15.0
_ASKED: Final = "The turn was stopped on request."
# Who is asked for an embedding: the text, and in whose name, on which key and for which agent.
EmbedFor = Callable[..., Any]
Expect = Callable[..., None]


def workflow_name(agent: str) -> str:
    """The workflow that a durable agent's turns are runs of."""
    return f"agent.{agent}"


class DurableTurns:
    """Runs the turns; `logs` are the streams that somebody reads in this process."""

    def __init__(
        self,
        registry: AgentRegistry,
        *,
        streams: Callable[[], StreamStore],
        means: Means,
        exchanges: Exchanges,
        embed: EmbedFor | None = None,
        expect: Expect | None = None,
    ) -> None:
        """`expect` is told of a model call that is about to be made."""
        self._registry = registry
        self._streams = streams
        self._means = means
        self.exchanges = exchanges
        self._embed = embed
        self._expect = expect
        self.logs: dict[str, StreamLog] = {}
        # Turns that were begun here just now, and of which nobody was told anything yet.
        self.fresh: set[str] = set()

    def workflows(self) -> list[Workflow]:
        """One for each durable agent."""
        return [
            Workflow(
                name=workflow_name(info.name),
                version=info.version,
                fn=self._run,
                step_timeout_s=_MODEL_S,
                internal=True,
            )
            for info in self._registry.infos()
            if info.durable
        ]

    async def _run(self, step: Step, input: Mapping[str, Any]) -> dict[str, Any]:
        """One turn of a durable agent; its readers are told as it goes on."""
        turn, clock, lease_s = input["turn"], self._means.clock, input.get("lease_s")
        fresh = turn in self.fresh
        stream = TurnStream(
            self._streams(),
            stream_of(turn, step.run_id, client=step.client, lease_s=lease_s, now=clock.now()),
            clock=clock,
            log=self.logs.get(turn),
            fresh=fresh,
            on_stop=partial(self._stop, step),
        )
        self.fresh.discard(turn)
        loop = _Loop(self, step, input, stream)
        try:
            if lease_s is not None and await stream.ended_by_lapse():
                raise Cancelled  # before anything is begun: who takes a run over may be late
            async with self.exchanges.hold(input, client=step.client, held=fresh):
                return await self._to_the_end(step, loop)
        except Cancelled:
            stopped = error_body(StreamStopped(LEASE_LAPSED if stream.lapsed else _ASKED))
            await stream.finish(stopped, StreamStatus.STOPPED, event="error")
            raise
        except Exception as error:
            await stream.finish(error_body(_told(error)), StreamStatus.FAILED, event="error")
            raise
        finally:
            await stream.close()

    def expect(self, model: str, *, client: str) -> None:
        """The model is about to be asked."""
        if self._expect is not None:
            self._expect(model, client=client)

    async def _to_the_end(self, step: Step, loop: _Loop) -> dict[str, Any]:
        info = self._registry.info(loop.input["agent"])
        if not info.mcp:
            return await loop.to_the_end()
        from lambent.agents.mcp_servers import offered

        async def list_all(names: Sequence[str]) -> Any:
            # On record: what a turn may call, and ask a person about, is the same for all who
            # go on with it, whatever becomes of the servers meanwhile.
            assert self._means.mcp is not None
            return await step.do("mcp tools", self._means.mcp().list_all, names)

        async with offered(info.mcp, self._means.mcp, list_all=list_all) as remote:
            return await loop.to_the_end(remote.tools, remote.notes)

    async def _stop(self, step: Step) -> None:
        """Ask for the run's end, and let its slice see that at once."""
        if self._means.engine is None:
            return
        engine = self._means.engine()
        # Also where somebody asked: he may have died before he came to it.
        with suppress(Conflict):  # it is ending
            await engine.control.cancel(step.run_id, client=step.client)
        engine.poke_run(step.run_id)

    def agent(self, name: str) -> tuple[type[ToolAgent], AgentInfo]:
        """Raises `UnknownAgent`."""
        cls = self._registry.get(name)
        assert issubclass(cls, ToolAgent)
        return cls, self._registry.info(name)

    def context(self, step: Step, input: Mapping[str, Any], id: str) -> ToolContext:
        """What this call of a tool may reach."""
        embed = self._embed
        payer = {"client": step.client, "key": input.get("key"), "agent": input["agent"]}

        async def embed_for(text: str) -> Embeddings:
            assert embed is not None
            found: Embeddings = await embed(text, **payer)
            return found

        return ToolContext(
            turn=input["turn"],
            call=id,
            caller=Caller(client=step.client, scopes=frozenset(input["scopes"])),
            means=self._means,
            embed=None if embed is None else embed_for,
        )


@dataclass(slots=True)
class _Round:
    """A round's listener: what its model call says goes to the stream as it comes."""

    stream: TurnStream
    number: int
    spoke: bool = False

    async def begin(self) -> str:
        await self.stream.ready()
        self.spoke = False
        return self.stream.told.text[self.number]

    def tell(self, text: str, thinking: str) -> None:
        # A second attempt thinks again; its readers have followed the first one's thoughts.
        if thinking and not self.stream.told.text[self.number]:
            self.stream.thinking(thinking)
        self.stream.delta(text)
        self.spoke = True

    async def end(self) -> None:
        # Before the checkpoint, so that what is on record is what readers were told.
        if self.spoke:
            await self.stream.flush()


@dataclass(slots=True)
class _Loop:
    turns: DurableTurns
    step: Step
    input: Mapping[str, Any]
    stream: TurnStream
    said: list[dict[str, Any]] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)
    uses: ToolUses = field(default_factory=ToolUses)
    calling: int = 0  # how many of this round's calls have no result yet

    async def to_the_end(
        self, remote: Sequence[Tool] = (), notes: Sequence[Message] = ()
    ) -> dict[str, Any]:
        cls, info = self.turns.agent(self.input["agent"])
        known = by_name([*info.tools, *remote])
        messages = [message_of(one) for one in self.input["messages"]]
        self.said = [message_record(one) for one in (*opening(cls.system, messages), *notes)]
        for number in range(info.rounds + 1):
            last = number == info.rounds
            answer = await self._ask(number, known, last=last)
            calls = [] if last else answer["tool_calls"]
            if not calls:
                break
            called = {**_spoken(answer), "tool_calls": calls}
            self.said.append(called)
            await self._call(number, known, calls)
        reason = answer["finish_reason"]
        if last and not answer["text"].strip():
            reason = "tool_rounds"
        end = {"finish_reason": reason, "usage": usage_body(self.usage)}
        # Before the end is told: who hears of that may read the conversation, or go on with it.
        await self._keep_exchange()
        await self.stream.finish(end, StreamStatus.DONE)
        return {"text": answer["text"], **end}

    async def _keep_exchange(self) -> None:
        """Add the turn to its conversation, if it has one: perhaps no reader is left to do it."""
        place = place_in(self.input)
        if place is None:
            return
        await self.stream.ready()
        answer = Message(
            role=Role.assistant,
            content="".join(one["text"] for one in self.answers),
            thinking="".join(text for _, text in sorted(self.stream.told.thinking.items())),
        )
        exchange = Exchange(
            input=self.input,
            client=self.step.client,
            place=place,
            answer=answer,
            usage=self.usage,
            prompt_tokens=Usage(**self.answers[0].get("usage", {})).prompt_tokens,
            tools=self.uses.all(),
        )
        try:
            await self.step.do("conversation", self.turns.exchanges.keep, exchange, timeout=_KEEP_S)
        except StepFailed as error:  # the answer itself is whole, and is told
            said = "A turn cannot be added to its conversation: %s"
            logger().error(said, error.detail, **log_fields(turn=self.input["turn"]))

    async def _ask(self, number: int, known: Mapping[str, Tool], *, last: bool) -> Any:
        said = [*self.said, {"role": "system", "content": NO_MORE}] if last else list(self.said)
        answer = await self.step.generate(
            "model",
            messages=said,
            model=self.input["model"],
            options=self.input["options"],
            think=self.input["think"],
            tools=() if last else [dict(one.offer) for one in known.values()],
            agent=self.input["agent"],
            key=self.input.get("key"),
            listener=_Round(self.stream, number),
        )
        self.answers.append(answer)
        self.uses.said(answer["text"])
        self.usage = self.usage + Usage(**answer.get("usage", {}))
        await self.stream.say(partial(self.stream.rest_of_round, number, answer["text"]))
        return answer

    async def _call(
        self, number: int, known: Mapping[str, Tool], calls: Sequence[Mapping[str, Any]]
    ) -> None:
        """Make the round's calls side by side; their results follow in the calls' order."""
        made = [
            (call_id(number, index), ToolCall(one["name"], one["arguments"], one.get("id")))
            for index, one in enumerate(calls)
        ]
        self.calling = len(made)
        started = [ToolStarted(id, c.name, c.arguments) for id, c in made]
        for one in started:
            self.uses.started(one)
        bodies = [started_body(one) for one in started]
        await self.stream.say(*(partial(self.stream.once, one) for one in bodies))
        if len(made) == 1:
            results = [await self._one(known, *made[0])]
        else:
            results = await self.step.map(
                "calls", made, lambda one: self._one(known, *one), limit=AT_ONCE
            )
        self.said.extend(
            {
                "role": Role.tool.value,
                "content": ended.content,
                "tool_name": call.name,
                "tool_call_id": call.id,
            }
            for (_, call), ended in zip(made, results, strict=True)
        )

    async def _one(self, known: Mapping[str, Tool], id: str, call: ToolCall) -> ToolEnded:
        tool = known.get(call.name)
        refused = None
        if tool is not None and tool.needs_approval and fits(tool, call.arguments):
            refused = await self._refused(id, call)
        ended = refused or await self._made(known, id, call)
        self.uses.ended(ended)
        await self.stream.say(partial(self.stream.once, ended_body(ended)))
        return ended

    async def _refused(self, id: str, call: ToolCall) -> ToolEnded | None:
        """Wait for a person; what the model is told instead where that one said no."""
        callback = await self.step.callback(approval_step(id), timeout=APPROVAL_S)
        # Told only now: who answers at once must find something to answer.
        awaited = ApprovalAwaited(id, call.name, call.arguments, self.step.run_id)
        await self.stream.say(partial(self.stream.once, awaited_body(awaited)))
        await self.stream.flush_if_mine()
        try:
            decision = await callback
        except WaitTimedOut:
            return ToolEnded(id, call.name, "Nobody approved this call in time.", failed=True)
        except CallbackFailed as error:
            decision = {"approve": False, "note": error.detail}
        await self.stream.renew_readers(id)
        if decision["approve"]:
            return None
        note = f" They say: {decision['note']}" if decision.get("note") else ""
        text = f"A person has refused this call.{note}"
        return ToolEnded(id, call.name, text, failed=True)

    async def _made(self, known: Mapping[str, Tool], id: str, call: ToolCall) -> ToolEnded:
        tool = known.get(call.name)
        context = self.turns.context(self.step, self.input, id)

        async def make() -> dict[str, Any]:
            ended = asdict(await run_tool(known, call, context))
            self.calling -= 1
            if not self.calling:
                # Its checkpoint is what the model's next call waits for.
                self.turns.expect(self.input["model"], client=self.step.client)
            return ended

        try:
            record = await self.step.do(
                f"tool {call.name[:64]}",
                make,
                timeout=None if tool is None else tool.timeout_s + _GRACE_S,
                at_most_once=tool is not None and tool.at_most_once,
            )
        except Interrupted:
            text = "The call was interrupted; whether it took effect is not known."
            return ToolEnded(id, call.name, text, failed=True)
        except StepFailed as error:
            return ToolEnded(id, call.name, f"The tool failed: {error.detail}", failed=True)
        return ToolEnded(**record)


def stream_of(
    turn: str, run_id: str, *, client: str, lease_s: float | None, now: datetime
) -> Stream:
    """The stream that a turn's run tells, as it is opened."""
    return Stream(
        id=turn,
        client=client,
        dialect=Dialect.LAMBENT,
        lease=f"{RUN_LEASE}{run_id}",
        lease_until=FAR_FUTURE,
        readers_lease_s=lease_s,
        readers_until=None if lease_s is None else now + timedelta(seconds=lease_s),
        kept_after=_KEPT_AFTER,
    )


def approval_step(call: str) -> str:
    """The name of the step that waits for a person's decision on the call."""
    return f"approval {call}"


def _spoken(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": Role.assistant.value, "content": answer["text"]}


def _told(error: Exception) -> LambentError:
    """What a reader is told of it."""
    if isinstance(error, StepFailed):
        kind = next((one for one in NAMED if one.__name__ == error.type), None)
        return error if kind is None else kind(error.detail)
    return error if isinstance(error, LambentError) else LambentError("The turn failed.")
