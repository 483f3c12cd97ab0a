"""What a chat is asked and what it tells: the request, and the frames of its answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from lambent.admission.decisions import LimitState
from lambent.agents.agent import Chunk, Source
from lambent.errors import LambentError
from lambent.models.values import Message, Usage
from lambent.streams.values import KEPT_AFTER


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One turn as asked, already checked.

    `agent` None asks the model itself, which then has to be named; only that takes `tools`,
    `format` and `whole` (see `ModelRequest`), which an agent decides for itself. `recall`, where it
    is given, makes all messages out of what is kept for the client who turned out to ask; it may
    raise errors of ours. Not `patient`: the answer is one document, and not to be waited for while
    a person has to decide.
    `lease_s`: the lease of the readers of a turn that is a run.
    """

    agent: str | None
    messages: tuple[Message, ...]
    model: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    conversation: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    format: str | Mapping[str, Any] | None = None
    whole: bool = False
    think: bool | str | None = None
    recall: Callable[[str], Awaitable[tuple[Message, ...]]] | None = None
    patient: bool = True
    lease_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamWish:
    """How a stream shall live: with a lease that its readers renew; on without its first reader;
    kept so long after its end."""

    lease_s: float | None = None
    lasting: bool = False
    kept_after: timedelta = KEPT_AFTER


@dataclass(frozen=True, slots=True)
class Queued:
    """The turn waits for a model slot; `position` 1 is next.

    `estimated_wait_s` goes by how long generations took on the host lately.
    """

    position: int
    estimated_wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Finished:
    """The last frame of an answer that is whole."""

    finish_reason: str
    usage: Usage
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """The last frame of an answer that broke off, or never began."""

    error: LambentError


Frame = Chunk | Queued | Finished | Failed


@dataclass(frozen=True, slots=True)
class Known:
    """Whose key it is, and that client's limit, if there is one."""

    client: str
    limit: LimitState | None


@dataclass(frozen=True, slots=True)
class Refusal:
    """The answer is an error; `limit` is the caller's, where it had been looked at."""

    error: LambentError
    limit: LimitState | None
