"""Kept conversations over HTTP: make, list, read, append, fork, rename, delete, export."""

# No postponed annotations here: FastAPI has to see the dependencies made inside the function.

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal, Self, TypeVar

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from lambent.admission.decisions import Principal, Scope
from lambent.agents.tool_uses import ToolUse
from lambent.chat.conversations import Conversation, ConversationStore
from lambent.chat.entries import Entry, Tools, message_id, place_of
from lambent.chat.idempotency import IdempotencyKeys
from lambent.chat.messages import ANSWER_BYTES, answer_bytes, images_bytes
from lambent.errors import Unprocessable
from lambent.http.keyed_making import CREATED, KeyedMaking, keyed_making
from lambent.http.reach import Authorize
from lambent.models.values import Message, Role

_MESSAGE_BYTES = 300
_After = Annotated[
    str | None, Query(max_length=20, description="Only what was said after this message.")
]
_Before = Annotated[
    str | None, Query(max_length=20, description="Only the last that was said before this message.")
]
_Last = Annotated[
    int | None,
    Query(ge=1, le=200, description="Only so many messages, the last; 50 where `before` is given."),
]
_LAST = 50
_SAID: JsonDict = {"messages": [{"role": "user", "content": "Hi"}]}


class ToolUseBody(BaseModel):
    """What an answer called. It is for people: no model is told, and long texts are cut."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(max_length=1_000)
    name: str = Field(max_length=100_000)
    arguments: str = Field(max_length=1_000_000, description="As JSON text.")
    result: str | None = Field(
        default=None, max_length=1_000_000, description="Null: the turn ended before there was one."
    )
    failed: bool = False
    after: int = Field(
        default=0, ge=0, le=1_000_000, description="So much of the answer was said before the call."
    )


class SaidMessage(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant"]
    content: str = Field(max_length=1_000_000, description="May be empty where there are tools.")
    tools: list[ToolUseBody] = Field(
        default=[], max_length=1000, description="What an answer called; 50 are kept."
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.tools and self.role != "assistant":
            raise ValueError("Only an answer calls tools.")
        if not self.content and not self.tools:
            raise ValueError("There is nothing said in it.")
        return self


class NewConversation(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_SAID]})

    title: str = Field(default="", max_length=200, description="None: the user's first words.")
    messages: list[SaidMessage] = Field(default=[], max_length=1000)


class NewMessages(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_SAID]})

    messages: list[SaidMessage] = Field(min_length=1, max_length=1000)


class ForkRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"at": "2.1"}]})

    at: str = Field(max_length=20, description="The id of the last message to take along.")


class RenameRequest(BaseModel):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"title": "Why the sky is blue"}]}
    )

    title: str = Field(min_length=1, max_length=200)


class ConversationView(BaseModel):
    id: str
    title: str
    created_at: datetime
    updated_at: datetime
    forked_from: str | None = Field(description="The conversation and message it began with.")
    answering: bool = Field(description="Whether a turn of it is under way.")


class TurnUsage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    model_s: float = Field(description="Seconds that the model server spent.")


class MessageView(BaseModel):
    id: str
    role: Role
    content: str
    thinking: str | None
    tools: list[ToolUseBody] = Field(description="What the answer called, in that order.")
    images: int = Field(description="How many came with it.")
    turn: str | None = Field(description="The id of the turn's answer, if a turn brought it.")
    usage: TurnUsage | None = Field(description="What the turn took, with its answer.")
    created_at: datetime


class ExportedMessage(MessageView):
    image_data: list[str] = Field(description="The images, in base64.")


class ExportedConversation(ConversationView):
    messages: list[ExportedMessage]
    cursor: str | None


V = TypeVar("V", bound=MessageView)


class WholeConversation(ConversationView):
    messages: list[MessageView]
    cursor: str | None = Field(description="Read on with it as `after`; null with the last.")
    earlier: str | None = Field(
        default=None,
        description="Read back with it as `before`; null with the first. Told where `before` or "
        "`last` was asked for.",
    )


class ConversationList(BaseModel):
    """A page, newest first."""

    conversations: list[ConversationView]
    cursor: str | None = Field(description="Ask with it for the next page; null on the last.")


class MessageList(BaseModel):
    messages: list[MessageView]


def conversations_router(
    store: ConversationStore, authorize: Authorize, *, keys: IdempotencyKeys
) -> APIRouter:
    """`/conversations`; needs the scope `chat`, and reaches the client's own only."""
    router = APIRouter(prefix="/conversations", tags=["conversations"])
    caller = Annotated[Principal, Depends(authorize(Scope.CHAT))]
    once = Annotated[KeyedMaking, Depends(keyed_making(keys))]
    _add_making(router, store, caller, once)
    _add_reading(router, store, caller)
    _add_appending(router, store, caller, once)
    _add_changing(router, store, caller)
    return router


def _add_making(router: APIRouter, store: ConversationStore, caller: Any, once: Any) -> None:
    @router.post("", status_code=CREATED, response_model=ConversationView)
    async def create_conversation(
        who: caller, made_once: once, body: NewConversation | None = None
    ) -> Response:
        """Begin a conversation; `POST /chat` with its id goes on with it."""
        asked = body or NewConversation()

        async def make(token: str | None) -> tuple[ConversationView, dict[str, str]]:
            said = _messages(asked.messages)
            tools = _tools(asked.messages)
            return _located(
                await store.create(
                    who.client, title=asked.title, messages=said, tools=tools, id=token
                )
            )

        response: Response = await made_once.made(who.client, asked, make)
        return response

    @router.post("/{id}/fork", status_code=CREATED, response_model=ConversationView)
    async def fork_conversation(
        id: str, body: ForkRequest, who: caller, made_once: once
    ) -> Response:
        """Begin another one with this one's messages up to one of them."""

        async def make(token: str | None) -> tuple[ConversationView, dict[str, str]]:
            return _located(await store.fork(id, client=who.client, at=body.at, fork_id=token))

        response: Response = await made_once.made(who.client, body, make)
        return response


def _add_reading(router: APIRouter, store: ConversationStore, caller: Any) -> None:
    @router.get("")
    async def list_conversations(
        who: caller,
        cursor: Annotated[str | None, Query(max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> ConversationList:
        """List conversations, the newest first."""
        found = await store.page(who.client, limit=limit + 1, before=cursor)
        page = [_view(one) for one in found[:limit]]
        return ConversationList(
            conversations=page, cursor=page[-1].id if len(found) > limit else None
        )

    @router.get("/{id}")
    async def get_conversation(
        id: str, who: caller, after: _After = None, before: _Before = None, last: _Last = None
    ) -> WholeConversation:
        """One conversation, with all that was said; of a very long one, a page of that.

        `last` reads it from its end, `before` on from there towards its beginning.
        """
        if before is None and last is None:
            view, page, cursor = await _part(store, id, who.client, after, _entry_views)
            return WholeConversation(**view.model_dump(), messages=page, cursor=cursor)
        if after is not None:
            raise Unprocessable("Either what was said after a message or the last that was said.")
        return await _read_back(store, id, client=who.client, before=before, last=last or _LAST)

    @router.get("/{id}/export", response_model=None)
    async def export_conversation(
        id: str, who: caller, format: Literal["json", "markdown"] = "json", after: _After = None
    ) -> Response:
        """The same as a file, with its images; `Link` names the next one, if any."""
        view, page, cursor = await _part(store, id, who.client, after, _exported_views)
        found = ExportedConversation(**view.model_dump(), messages=page, cursor=cursor)
        ending = "json" if format == "json" else "md"
        headers = {"content-disposition": f"attachment; filename=conversation-{id}.{ending}"}
        if found.cursor is not None:
            rest = f"/conversations/{id}/export?format={format}&after={found.cursor}"
            headers["link"] = f'<{rest}>; rel="next"'
        if format == "json":
            data, media_type = found.model_dump_json(indent=2), "application/json"
        else:
            data, media_type = markdown_of(found), "text/markdown; charset=utf-8"
        return Response(data, media_type=media_type, headers=headers)


async def _part(
    store: ConversationStore,
    id: str,
    client: str,
    after: str | None,
    views_of: Callable[[Entry], list[V]],
) -> tuple[ConversationView, list[V], str | None]:
    """What comes after the message, as much as one answer holds, and where to read on."""
    found = await store.get(id, client=client)
    number, index = (0, 0) if after is None else place_of(after)
    entries = await store.entries(id, client=client, since=number)
    views = [view for entry in entries for view in views_of(entry)]
    if entries and entries[0].number == number:
        views = views[index + 1 :]
    page = _page(views)
    return _view(found), page, page[-1].id if len(page) < len(views) else None


async def _read_back(
    store: ConversationStore, id: str, *, client: str, before: str | None, last: int
) -> WholeConversation:
    found = await store.get(id, client=client)
    end = None if before is None else place_of(before)
    # Each entry has a message at least, but that of `before` may have none in front of it; and one
    # more tells whether there are earlier ones.
    until = None if end is None else end[0] + 1
    entries = await store.entries(id, client=client, until=until, last=last + 2)
    views = [view for entry in entries for view in _entry_views(entry)]
    if end is not None:
        views = [one for one in views if place_of(one.id) < end]
    page = _page(views[: -last - 1 : -1])[::-1]
    earlier = page[0].id if len(page) < len(views) else None
    head = _view(found).model_dump()
    return WholeConversation(**head, messages=page, cursor=None, earlier=earlier)


def _add_appending(router: APIRouter, store: ConversationStore, caller: Any, once: Any) -> None:
    @router.post("/{id}/messages", status_code=CREATED, response_model=MessageList)
    async def append_messages(id: str, body: NewMessages, who: caller, made_once: once) -> Response:
        """Add what was said elsewhere; 409 while a turn is under way."""

        async def make(token: str | None) -> tuple[MessageList, dict[str, str]]:
            said = _messages(body.messages)
            tools = _tools(body.messages)
            added = await store.append(id, said, client=who.client, once=token, tools=tools)
            return MessageList(messages=_entry_views(added)), {}

        response: Response = await made_once.made(who.client, body, make)
        return response


def _add_changing(router: APIRouter, store: ConversationStore, caller: Any) -> None:
    @router.patch("/{id}")
    async def rename_conversation(id: str, body: RenameRequest, who: caller) -> ConversationView:
        """Give it another title."""
        return _view(await store.rename(id, body.title, client=who.client))

    @router.delete("/{id}", status_code=204)
    async def delete_conversation(id: str, who: caller) -> None:
        """Forget it; forks of it stay."""
        await store.delete(id, client=who.client)


def markdown_of(found: ExportedConversation) -> str:
    """A heading for each message; images stand in it themselves."""
    parts = [f"# {found.title or 'Conversation'}\n"]
    for one in found.messages:
        parts.append(f"## {one.role.value.capitalize()}, {one.created_at:%Y-%m-%d %H:%M} UTC\n")
        parts.append(f"{one.content}\n")
        parts.extend(
            f"![Image {number}](data:{_image_type(data)};base64,{data})\n"
            for number, data in enumerate(one.image_data, 1)
        )
    return "\n".join(parts)


def _image_type(data: str) -> str:
    """Of base64, by the bytes that such files begin with; PNG where they tell nothing."""
    kinds = {"/9j/": "image/jpeg", "R0lG": "image/gif", "UklG": "image/webp"}
    return kinds.get(data[:4], "image/png")


def _page(views: Sequence[V]) -> list[V]:
    """As many as one answer may hold, and at least one."""
    size = 0
    for count, one in enumerate(views):
        size += _MESSAGE_BYTES + answer_bytes(one.content) + answer_bytes(one.thinking or "")
        size += sum(_MESSAGE_BYTES + answer_bytes(use.model_dump_json()) for use in one.tools)
        if isinstance(one, ExportedMessage):
            size += images_bytes(one.image_data)
        if size > ANSWER_BYTES and count:
            return list(views[:count])
    return list(views)


def _messages(said: Sequence[SaidMessage]) -> tuple[Message, ...]:
    return tuple(Message(role=Role(one.role), content=one.content) for one in said)


def _tools(said: Sequence[SaidMessage]) -> Tools:
    return {
        place: [ToolUse(**use.model_dump()) for use in one.tools]
        for place, one in enumerate(said)
        if one.tools
    }


def _located(made: Conversation) -> tuple[ConversationView, dict[str, str]]:
    return _view(made), {"location": f"/conversations/{made.id}"}


def _view(one: Conversation) -> ConversationView:
    return ConversationView(
        id=one.id,
        title=one.title,
        created_at=one.created_at,
        updated_at=one.updated_at,
        forked_from=one.forked_from,
        answering=one.answering,
    )


def _entry_views(entry: Entry) -> list[MessageView]:
    return [
        MessageView(
            id=message_id(entry, index),
            role=one.role,
            content=one.content,
            thinking=one.thinking or None,
            tools=[ToolUseBody(**asdict(use)) for use in entry.tools.get(index, ())],
            images=len(one.images),
            turn=entry.turn,
            usage=TurnUsage(**entry.usage) if entry.usage and one.role is Role.assistant else None,
            created_at=entry.created_at,
        )
        for index, one in enumerate(entry.messages)
    ]


def _exported_views(entry: Entry) -> list[ExportedMessage]:
    return [
        ExportedMessage(**view.model_dump(), image_data=list(said.images))
        for view, said in zip(_entry_views(entry), entry.messages, strict=True)
    ]
