"""Tells a durable turn, which is kept in the platform's own words, in those of another dialect.

Each kept event becomes the frame that it was for the first reader, from the first event on: so an
encoder like the first one writes the same pieces, and gives them the same numbers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from lambent.agents.turn_frames import chunk_of, decode_frame, is_error
from lambent.chat.durable_chats import failure_of
from lambent.chat.stream_turn import FrameEncoder, numbered, only_broke_off
from lambent.chat.values import Failed, Finished, Frame
from lambent.errors import Unavailable
from lambent.models.values import Usage
from lambent.streams.reader import Broken, Followed


async def retold(
    events: Followed, encoder: FrameEncoder, *, after: int
) -> AsyncGenerator[list[bytes] | Broken, None]:
    """The encoder's events above its `after`; `events` are all that are kept."""
    frames, last = _Frames(), 0
    async with aclosing(events):
        async for kept in events:
            if isinstance(kept, Broken):
                break
            if not (told := frames.of(kept)):
                yield []
                continue
            pieces = await _pieces(encoder, told, last)
            yield pieces[max(0, after - last) :]
            last += len(pieces)
            if isinstance(told[-1], Finished | Failed):
                return
    error = Failed(Unavailable("The turn was stopped before its end."))
    yield await _pieces(encoder, [error], last)


async def _pieces(encoder: FrameEncoder, frames: Sequence[Frame], last: int) -> list[bytes]:
    data = await encoder.encode(frames)
    return numbered(data, after=last, goes_on=only_broke_off(frames))


@dataclass(slots=True)
class _Frames:
    """What the first reader's turn made of the events, too."""

    reason: str = "stop"
    used: Usage = field(default_factory=Usage)

    def of(self, events: Sequence[bytes]) -> list[Frame]:
        frames: list[Frame] = []
        for event in events:
            if (body := decode_frame(event)) is None:
                return [*frames, Finished(self.reason, self.used, ())]
            if is_error(event):
                return [*frames, Failed(failure_of(body))]
            chunk = chunk_of(body)
            self.reason = chunk.finish_reason or self.reason
            self.used = chunk.usage or self.used
            frames.append(chunk)
        return frames
