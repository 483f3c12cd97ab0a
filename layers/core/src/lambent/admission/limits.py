"""Says in headers how much of a client's limit is left, and that a soft budget is passed."""

from __future__ import annotations

import math

from lambent.admission.decisions import LimitState


def headers(limit: LimitState | None) -> dict[str, str]:
    """`RateLimit-Policy` and `RateLimit`, and `X-Budget-Warning`; none without a limit.

    Source: draft-ietf-httpapi-ratelimit-headers-10, sections 3 and 4.
    """
    if limit is None:
        return {}
    told = {
        "RateLimit-Policy": f'"default";q={limit.quota};w={math.ceil(limit.window_s)}',
        "RateLimit": f'"default";r={limit.remaining};t={math.ceil(limit.reset_s)}',
    }
    if (budget := limit.budget) is not None:
        told["X-Budget-Warning"] = (
            f"{budget.kind}-{budget.period}-{budget.unit};used={budget.used:g}"
            f";soft={budget.limit:g};t={math.ceil(budget.resets_in_s)}"
        )
    return told


def openai_headers(limit: LimitState | None) -> dict[str, str]:
    """OpenAI's `x-ratelimit-*-requests`, with Go durations as OpenAI sends them."""
    if limit is None:
        return {}
    return {
        "x-ratelimit-limit-requests": str(limit.quota),
        "x-ratelimit-remaining-requests": str(limit.remaining),
        "x-ratelimit-reset-requests": _go_duration(limit.reset_s),
    }


def _go_duration(seconds: float) -> str:
    """`640ms` under a second; above, rounded up: `1s`, `6m0s`, `1h0m0s`."""
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    minutes, rest = divmod(math.ceil(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
