"""Carries whose work it is from function to function, and makes spans of it where that is set.

Kept in due documents, not in nudges: a nudge may be lost and holds many runs; the document that
waits says where it came from, to whoever finds it. With `TRACING=off` nothing of OpenTelemetry is
imported, and a span costs one comparison.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Final, Protocol

from lambent.settings import Settings, Tracing
from lambent.telemetry import correlated, trail

if TYPE_CHECKING:
    from lambent.spans import Spans

Trace = Mapping[str, str]
Attributes = Mapping[str, Any]
_PARENT: Final = "traceparent"  # https://www.w3.org/TR/trace-context/
_spans: Spans | None = None


class Open(Protocol):
    """A span that goes on."""

    def set(self, **attributes: Any) -> None:
        """Tell more about it."""
        ...

    def end(self, error: BaseException | None = None) -> None:
        """It is over; for those begun by `begin`."""
        ...


class _Nothing:
    def set(self, **attributes: Any) -> None:
        pass

    def end(self, error: BaseException | None = None) -> None:
        pass


_NOTHING: Final = _Nothing()


def configure(settings: Settings) -> None:
    """Make spans as the settings say, from now on. What was made before is forgotten."""
    global _spans  # noqa: PLW0603 (as a logger, it is the environment's)
    _spans = None
    if Tracing(settings.tracing) is not Tracing.OFF:
        from lambent.spans import Spans

        _spans = Spans(settings)


def carried() -> dict[str, str]:
    """What a due document keeps of the work that made it."""
    kept = {"request_id": trail().get("request_id", "")}
    if _spans is not None:
        kept[_PARENT] = _spans.traceparent()
    return {key: value for key, value in kept.items() if value}


@contextmanager
def resumed(trace: Trace | None, **ids: str) -> Iterator[None]:
    """Go on, wherever this is, with the work that a due document came from."""
    came = trace or {}
    with correlated(request_id=came.get("request_id"), **ids):
        if _spans is None:
            yield
            return
        with _spans.under(came.get(_PARENT, "")):
            yield


def span(
    name: str, *, linked: Trace | None = None, **attributes: Any
) -> AbstractContextManager[Open]:
    """A part of the work that goes on; `linked`: other work that it also comes from."""
    if _spans is None:
        return nullcontext(_NOTHING)
    return _spans.span(name, (linked or {}).get(_PARENT, ""), attributes)


def request_span(
    method: str, path: str, headers: Mapping[str, str]
) -> AbstractContextManager[Open]:
    """An HTTP request, as a part of what its caller traces."""
    if _spans is None:
        return nullcontext(_NOTHING)
    return _spans.request(method, path, headers.get(_PARENT, ""))


def begin(name: str, **attributes: Any) -> Open:
    """A call to elsewhere that does not go on within one block: `end` it."""
    return _NOTHING if _spans is None else _spans.begin(name, attributes)


async def export() -> None:
    """Send what has ended, before the invocation does: afterwards nothing runs any more."""
    if _spans is not None:
        await _spans.export()
