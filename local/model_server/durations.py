"""Reads Go's durations, as `keep_alive` gives them."""

import re

UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")


def seconds(value: object) -> float:
    """Seconds in "5m", "1h30m", 300 or "-1"; below zero: for ever. ValueError in Go's words."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"Unsupported type: '{type(value).__name__}'")
    if not isinstance(value, str):
        return float(value)
    text = value.removeprefix("-")
    parts = PART.findall(text)
    if text == "0":
        return 0.0
    if not parts or "".join(n + u for n, u in parts) != text:
        raise ValueError(f'time: invalid duration "{value}"')
    total_s = sum(float(number) * UNITS_S[unit] for number, unit in parts)
    return -total_s if value.startswith("-") else total_s
