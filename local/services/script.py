"""What a scripted model may answer: words, thoughts, tool calls, delays and faults."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Self

from local.model_server import wire
from local.model_server.http1 import as_chunk, encode_json


class Fault(StrEnum):
    """How an answer goes wrong after its frames have been sent."""

    ERROR_LINE = "error_line"  # {"error": ...} as a line, then a clean end
    BREAK = "break"  # the connection is reset
    HANG = "hang"  # silence until the client leaves
    MALFORMED = "malformed"  # half a JSON value
    END_EARLY = "end_early"  # a clean end without the line that says done


def chunk_of(line: wire.Line) -> bytes:
    return as_chunk(encode_json(line) + b"\n")


@dataclass(frozen=True, slots=True)
class Reply:
    """One scripted answer; build it with the class methods, vary it with `but`."""

    frames: tuple[str, ...] = ()
    thinking: tuple[str, ...] = ()
    tool_calls: tuple[wire.Line, ...] = ()
    delay_s: float = 0.0
    first_delay_s: float = 0.0
    done_reason: str = "stop"
    fault: Fault | None = None
    status: int = 200
    error: str = "an error was encountered while running the model"
    prompt_tokens: int = 7

    @classmethod
    def text(cls, text: str, **more: Any) -> Self:
        """The text, a word a frame."""
        words = text.split(" ")
        frames = (words[0], *(f" {word}" for word in words[1:]))
        return cls(frames=frames, **more)

    @classmethod
    def many(cls, count: int, *, frame: str = "word ", **more: Any) -> Self:
        """`count` equal frames, sent as fast as they are read unless a delay is given."""
        return cls(frames=(frame,) * count, **more)

    @classmethod
    def calls(cls, *tools: tuple[str, Mapping[str, object]], **more: Any) -> Self:
        """Tool calls, each (name, arguments)."""
        made = tuple({"function": {"name": n, "arguments": dict(a)}} for n, a in tools)
        return cls(tool_calls=made, **more)

    @classmethod
    def failure(cls, status: int, error: str, **more: Any) -> Self:
        """An error instead of a stream."""
        return cls(status=status, error=error, **more)

    @classmethod
    def busy(cls) -> Self:
        """What Ollama says when its queue is full."""
        return cls(status=503, error=wire.BUSY)

    def but(self, **changes: Any) -> Self:
        return replace(self, **changes)

    def limited_to(self, num_predict: object) -> Self:
        """As `options.num_predict` cuts it."""
        if not isinstance(num_predict, int) or not 0 < num_predict < len(self.frames):
            return self
        return replace(self, frames=self.frames[:num_predict], done_reason="length")

    def chunks(self, route: wire.Route, model: str) -> Iterator[bytes]:
        """All lines but the last, framed; equal frames of an undelayed answer share their bytes."""
        for thought in self.thinking:
            yield chunk_of(wire.piece(route, model, "", thinking=thought))
        made: dict[str, bytes] = {}
        for frame in self.frames:
            if self.delay_s or frame not in made:
                made[frame] = chunk_of(wire.piece(route, model, frame))
            yield made[frame]
        if self.tool_calls:
            yield chunk_of(wire.piece(route, model, "", tool_calls=list(self.tool_calls)))

    def timings(self, began_at_s: float) -> wire.Timings:
        took_ns = int((time.monotonic() - began_at_s) * 1e9)
        return wire.Timings(
            total_duration=took_ns,
            load_duration=1_000_000,
            prompt_eval_count=self.prompt_tokens,
            prompt_eval_duration=1_000_000,
            eval_count=len(self.thinking) + len(self.frames) + len(self.tool_calls),
            eval_duration=max(took_ns, 1),
        )
