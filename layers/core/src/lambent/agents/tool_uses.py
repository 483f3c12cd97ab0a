"""What a turn's tools were asked and what they gave, as it is kept beside the turn's answer.

It is for people who read the conversation later, and never told to a model: so it may be cut.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from lambent.agents.agent import Chunk
from lambent.agents.tool_calls import ToolEnded, ToolStarted

# All of a turn's go into one document and, with its answer, into one of a function's.
_MOST: Final = 50
_LONGEST_NAME: Final = 200
_LONGEST_TEXT: Final = 4_000
_ROOM: Final = 24_000


@dataclass(frozen=True, slots=True)
class ToolUse:
    """`arguments` are JSON text. `result` None: the turn ended before there was one. `after`: how
    many characters of the answer were said before the call."""

    id: str
    name: str
    arguments: str
    result: str | None = None
    failed: bool = False
    after: int = 0


class ToolUses:
    """Gathers a turn's as it goes on; each call once, however often it is told."""

    def __init__(self) -> None:
        self._found: dict[str, ToolUse] = {}
        self._said = 0

    def take(self, chunk: Chunk) -> None:
        """What a chunk tells of tools, and how much it says."""
        if chunk.tool_started is not None:
            self.started(chunk.tool_started)
        if chunk.tool_ended is not None:
            self.ended(chunk.tool_ended)
        self.said(chunk.delta)

    def said(self, text: str) -> None:
        self._said += len(text)

    def started(self, call: ToolStarted) -> None:
        arguments = json.dumps(dict(call.arguments), indent=2, ensure_ascii=False, default=str)
        use = ToolUse(call.id, call.name, arguments, after=self._said)
        self._found.setdefault(call.id, use)

    def ended(self, end: ToolEnded) -> None:
        use = self._found.get(end.id)
        if use is not None:
            self._found[end.id] = replace(use, result=end.content, failed=end.failed)

    def all(self) -> tuple[ToolUse, ...]:
        return tuple(self._found.values())


def cut(uses: Sequence[ToolUse]) -> tuple[ToolUse, ...]:
    """As much of them as is kept: each one's texts shorter, the more of them there are."""
    uses = uses[:_MOST]
    room = min(_LONGEST_TEXT, _ROOM // (2 * max(1, len(uses))))
    return tuple(
        replace(
            one,
            id=one.id[:_LONGEST_NAME],
            name=_shorter(one.name, _LONGEST_NAME),
            arguments=_shorter(one.arguments, room),
            result=None if one.result is None else _shorter(one.result, room),
        )
        for one in uses
    )


def _shorter(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
