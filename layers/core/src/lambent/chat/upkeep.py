"""What conversations have done for them behind their turns, as runs: summaries and titles.

No run's record holds a word of what was said: each step reads the conversation anew, and what it
makes goes onto the conversation by compare-and-set. So what is deleted is gone, and whoever takes a
run over goes on from where the conversation itself stands.

    summary   up to nowhere -> up to a place -> up to a later place
    title     words -> model;  what a person gave stays
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lambent.chat import window
from lambent.chat.conversations import Conversation, Summary, TitledBy, shortened
from lambent.chat.entries import Entry
from lambent.choices import Overflow, Titles
from lambent.engine.model import Level
from lambent.engine.options import Flow, Retry, Singleton
from lambent.engine.registry import Workflow
from lambent.errors import Conflict, NotFound, Unavailable, WorkflowError
from lambent.models.values import Role
from lambent.settings import Settings
from lambent.telemetry import log_fields, logger

if TYPE_CHECKING:
    from lambent.chat.conversations import ConversationStore
    from lambent.engine.config import ModelPort
    from lambent.engine.engine import WorkflowEngine
    from lambent.engine.step import Step

SUMMARISE: Final = "lambent.summarise-conversation"
TITLE: Final = "lambent.title-conversation"
_MODEL_S: Final = 300.0
_MOST_PARTS: Final = 2000
# Of the window: a part's text, and the notes, which are both told and answered.
_TEXT_SHARE: Final = 0.5
_NOTES_SHARE: Final = 0.125
_MOST_NOTES: Final = 1024
_TITLE_TOKENS: Final = 32
_TITLE_BYTES: Final = 3000
_ABOUT_TITLES: Final = " \t\"'*#`“”„«»"
_NOTES_RULE: Final = (
    "You keep the notes of a conversation. Write them anew, so that they hold what matters of the "
    "notes so far and of what was said next: facts, names, numbers, decisions, wishes, open "
    "questions. Be brief, and use the conversation's language. Answer with the notes alone."
)
_TITLE_RULE: Final = (
    "Give the conversation a title of at most six words, in its own language. Answer with the "
    "title alone."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """Starts what a turn has left to do, in its client's name and with its model."""

    engine: Callable[[], WorkflowEngine]
    settings: Settings
    client: str
    key: str | None
    model: str
    options: Mapping[str, Any]
    window_tokens: int

    async def after_turn(self, found: Conversation, *, covers: int) -> None:
        """`covers`: up to which entry a summary is wanted, 0 for none.

        Never raises for what is away: the turn itself is whole, and a later one asks again.
        """
        about = {"conversation": found.id}
        if covers and self.settings.conversation_overflow == Overflow.SUMMARISE:
            wanted = {**about, "covers": covers, "window": self.window_tokens}
            await self._start(SUMMARISE, wanted, key=f"summary:{found.id}/{covers}")
        by_model = self.settings.conversation_titles == Titles.MODEL
        if by_model and found.titled_by is TitledBy.WORDS:
            await self._start(TITLE, about, key=f"title:{found.id}")

    async def _start(self, workflow: str, wanted: Mapping[str, Any], *, key: str) -> None:
        # The turn's own window: with another one, Ollama would load the model anew.
        options = {name: self.options[name] for name in ("num_ctx",) if name in self.options}
        input = {**wanted, "model": self.model, "options": options, "key": self.key}
        try:
            await self.engine().start_internal(
                workflow, input, client=self.client, key=key, version=1, nudge=True
            )
        except Conflict:  # begun already, by a turn of another model or key
            return
        except Unavailable as error:
            fields = log_fields(conversation=wanted["conversation"])
            logger().warning("%s cannot be started: %s", workflow, error.detail, **fields)


def upkeep_workflows(
    conversations: Callable[[], ConversationStore], model: ModelPort
) -> list[Workflow]:
    """Internal, since their input says on whose key they are booked."""
    work = _Work(conversations, model)
    # One at a time: two would pay for the same part, and one of them in vain.
    alone = Flow(singleton=Singleton(key=lambda input: str(input["conversation"])))
    return [
        Workflow(
            name=name,
            version=1,
            fn=fn,
            retry=Retry(attempts=8),
            step_timeout_s=_MODEL_S,
            priority=Level.LOW,
            flow=alone,
            internal=True,
        )
        for name, fn in ((SUMMARISE, work.summarise), (TITLE, work.title))
    ]


class _Work:
    def __init__(self, conversations: Callable[[], ConversationStore], model: ModelPort) -> None:
        self._conversations = conversations
        self._model = model

    async def summarise(self, step: Step, input: Mapping[str, Any]) -> dict[str, Any]:
        """Sums up a conversation's oldest exchanges; started by its turns only."""
        covers, wanted = 0, int(input["covers"])
        for _ in range(_MOST_PARTS):
            covers = await step.do("summarise", self._part, step.client, input)
            if covers >= wanted:
                break
        return {"conversation": input["conversation"], "covers": covers}

    async def title(self, step: Step, input: Mapping[str, Any]) -> dict[str, Any]:
        """Gives a conversation its title; started by its first turn only."""
        given = await step.do("title", self._titled, step.client, input)
        return {"conversation": input["conversation"], "given": given}

    async def _part(self, client: str, input: Mapping[str, Any]) -> int:
        """Sum up one part more; the last entry that the summary now covers."""
        store, id, wanted = self._conversations(), input["conversation"], int(input["covers"])
        try:
            found = await store.get(id, client=client)
        except NotFound:  # deleted: nothing is left to do
            return wanted
        before = found.summary or Summary("", 0, 0)
        since, until = before.covers + 1, wanted + 1
        entries = await store.entries(id, client=client, since=since, until=until)
        if not entries:
            return max(wanted, before.covers)
        size = window.bytes_in(int(input["window"] * _TEXT_SHARE), found.tokens_a_byte)
        text, covers, offset = part_of(entries, offset=before.offset, size_bytes=size)
        notes = before.text
        if text.strip():
            asked = f"Notes so far:\n{before.text or '(none)'}\n\nSaid next:\n{text}"
            tokens = min(int(input["window"] * _NOTES_SHARE), _MOST_NOTES)
            notes = await self._ask(_Question(SUMMARISE, _NOTES_RULE, asked, tokens), client, input)
            if not notes:
                raise WorkflowError("The model had nothing to say.")
        after = Summary(notes, covers, offset)
        kept = await store.keep_summary(id, after, client=client, before=found.summary)
        return covers if kept else before.covers

    async def _titled(self, client: str, input: Mapping[str, Any]) -> bool:
        store, id = self._conversations(), input["conversation"]
        entries = await store.entries(id, client=client)
        if not entries:
            return False
        text, _, _ = part_of(entries, offset=0, size_bytes=_TITLE_BYTES)
        asked = _Question(TITLE, _TITLE_RULE, text, _TITLE_TOKENS)
        title = title_in(await self._ask(asked, client, input))
        return bool(title) and await store.title_by_model(id, title, client=client)

    async def _ask(self, asked: _Question, client: str, input: Mapping[str, Any]) -> str:
        request = {
            "agent": f"workflow:{asked.workflow}",
            "key": input["key"],
            "model": input["model"],
            "messages": [
                {"role": Role.system.value, "content": asked.rule},
                {"role": Role.user.value, "content": asked.text},
            ],
            "options": {**input["options"], "num_predict": asked.tokens},
            # Its thoughts would take the place of the answer.
            "think": False,
        }
        made = await self._model.generate(request, client=client)
        return str(made.value["text"]).strip()


@dataclass(frozen=True, slots=True)
class _Question:
    """What the model is asked on behalf of a workflow; the answer takes `tokens` at most."""

    workflow: str
    rule: str
    text: str
    tokens: int


def part_of(entries: Sequence[Entry], *, offset: int, size_bytes: int) -> tuple[str, int, int]:
    """What of these entries comes next, and where it ends: behind a whole entry, and how many
    bytes into the one after it. The first begins at `offset`; only one that is too large by
    itself is cut."""
    part, covers = b"", entries[0].number - 1
    for entry in entries:
        said = _transcript(entry).encode()[offset:]
        if len(said) > size_bytes and not part:
            return said[:size_bytes].decode(errors="ignore"), covers, offset + size_bytes
        if len(part) + len(said) > size_bytes:
            break
        part, covers, offset = part + said, entry.number, 0
    return part.decode(errors="ignore"), covers, 0


def title_in(answer: str) -> str:
    """Models like to quote a title, to set it bold, and to explain it below."""
    first = next((line for line in answer.splitlines() if line.strip()), "")
    bare = first.strip(_ABOUT_TITLES).removeprefix("Title:")
    return shortened(bare.strip(_ABOUT_TITLES).rstrip("."))


def _transcript(entry: Entry) -> str:
    # System messages are told whole in every turn.
    told = [one for one in entry.messages if one.role is not Role.system and one.content]
    return "".join(f"{one.role.value.capitalize()}: {one.content}\n\n" for one in told)
