"""The body of a chat request: its shape, its limits, and its errors by field."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from lambent.chat.values import ChatRequest
from lambent.errors import Unprocessable
from lambent.models.values import Message, Role


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "must not be blank")
    return text


_Text = Annotated[str, Field(min_length=1, max_length=2_000_000), AfterValidator(_not_blank)]
_Name = Annotated[str, Field(min_length=1, max_length=200)]
_Image = Annotated[str, Field(min_length=1, pattern=r"^[A-Za-z0-9+/]+={0,2}$")]
_Stop = Annotated[str, Field(min_length=1, max_length=1000)]
_Share = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class MessageBody(_Strict):
    """One message; `images` are base64 without a data-URL prefix."""

    role: Literal["system", "user", "assistant"]
    content: _Text
    images: Annotated[list[_Image], Field(max_length=16)] = []


class OptionsBody(TypedDict, total=False):
    """Ollama's options, those that a client may set, within what makes sense."""

    # A mapping instead of a model: it builds in half the time, at each cold start.
    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]

    temperature: Annotated[float, Field(ge=0, le=5)]
    top_p: _Share
    min_p: _Share
    typical_p: _Share
    top_k: Annotated[int, Field(ge=0, le=100_000)]
    seed: Annotated[int, Field(ge=-(2**31), lt=2**31)]
    num_predict: Annotated[int, Field(ge=-2, le=1_000_000)]
    num_ctx: Annotated[int, Field(ge=1, le=1_048_576)]
    num_keep: Annotated[int, Field(ge=-1, le=1_048_576)]
    repeat_penalty: Annotated[float, Field(ge=0, le=10)]
    repeat_last_n: Annotated[int, Field(ge=-1, le=1_048_576)]
    presence_penalty: Annotated[float, Field(ge=-10, le=10)]
    frequency_penalty: Annotated[float, Field(ge=-10, le=10)]
    stop: Annotated[list[_Stop], Field(max_length=16)]


class ChatBody(_Strict):
    """`input` is one message of the user; `messages` is a conversation that ends with one.

    With `conversation`, what was said before is taken from the kept conversation of that id, and
    the exchange is added to it once the answer is whole: a durable agent's by its run, whoever
    still reads.
    """

    agent: _Name = "chat"
    input: _Text | None = None
    messages: Annotated[list[MessageBody], Field(min_length=1, max_length=2000)] | None = None
    conversation: _Name | None = None
    model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/:@-]{0,199}$")] | None = None
    options: OptionsBody = {}

    @model_validator(mode="after")
    def _one_question(self) -> ChatBody:
        if (self.input is None) == (self.messages is None):
            raise PydanticCustomError("one_of", "exactly one of input and messages is needed")
        if self.messages and self.messages[-1].role != "user":
            raise PydanticCustomError("last", "the last of messages must be the user's")
        if self.conversation is not None and self.messages and len(self.messages) > 1:
            raise PydanticCustomError("kept", "a kept conversation takes one message at a time")
        return self

    def to_request(self) -> ChatRequest:
        if self.input is not None:
            messages: tuple[Message, ...] = (Message(role=Role.user, content=self.input),)
        else:
            messages = tuple(
                Message(role=Role(one.role), content=one.content, images=tuple(one.images))
                for one in self.messages or ()
            )
        return ChatRequest(
            agent=self.agent,
            messages=messages,
            model=self.model,
            options=dict(self.options),
            conversation=self.conversation,
        )


def parse_chat(body: Any, *, max_num_ctx: int) -> ChatRequest:
    """Raises `Unprocessable`; its `errors` name each field, never the value that was sent.

    `max_num_ctx`: the largest window in tokens that may be asked for.
    """
    try:
        request = ChatBody.model_validate(body).to_request()
        _check_window(request, max_num_ctx)
        return request
    except ValidationError as error:
        errors = [
            {"field": _field(one["loc"]), "message": one["msg"]}
            for one in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        fields = ", ".join(dict.fromkeys(one["field"] for one in errors[:10]))
        raise Unprocessable(f"Not valid: {fields}.", fields={"errors": errors[:100]}) from None


def _check_window(request: ChatRequest, most: int) -> None:
    if request.options.get("num_ctx", 0) > most:
        said = f"Input should be less than or equal to {most}: the operator's MAX_NUM_CTX"
        error = {"field": "options.num_ctx", "message": said}
        raise Unprocessable(f"options.num_ctx is at most {most} here.", fields={"errors": [error]})


def _field(location: tuple[int | str, ...]) -> str:
    # The name of an unknown field is the caller's own text, of any length.
    return ".".join(str(part)[:60] for part in location[:10]) or "body"
