"""Checks a request's `options` and says them in llama.cpp's words."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from local.model_server.prompts import STOPS

INT32 = 2**31 - 1
RUNAWAY_CONTEXTS = 10  # Ollama ends an unlimited generation at ten times its context

INTEGERS = {
    "num_keep": "n_keep",
    "num_predict": "n_predict",
    "top_k": "top_k",
    "seed": "seed",
    "repeat_last_n": "repeat_last_n",
    "mirostat": "mirostat",
    "num_ctx": None,
    "num_batch": None,
    "num_gpu": None,
    "main_gpu": None,
    "num_thread": None,
}
FLOATS = {
    "temperature": "temperature",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repeat_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "mirostat_tau": "mirostat_tau",
    "mirostat_eta": "mirostat_eta",
}
DEFAULTS: Mapping[str, Any] = {
    "n_keep": 4,
    "n_predict": -1,
    "top_k": 40,
    "top_p": 0.9,
    "min_p": 0.0,
    "typical_p": 1.0,
    "repeat_last_n": 64,
    "temperature": 0.8,
    "repeat_penalty": 1.1,
    "seed": -1,
}


class OptionError(ValueError):
    """An option of a wrong type; Ollama answers these with 500."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """What llama.cpp is told, and how many tokens of prompt are let in."""

    payload: dict[str, Any]
    context: int


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check(name: str, value: object, *, kind: str, holds: Callable[[object], bool]) -> None:
    if not holds(value):
        raise OptionError(f'option "{name}" must be of type {kind}')


def read(options: Mapping[str, Any] | None, *, context: int) -> Sampling:
    """Sampling out of a request's `options`; unknown ones are ignored, as Ollama does.

    `num_ctx` may make the context smaller than the loaded one, not larger. Raises OptionError.
    """
    payload: dict[str, Any] = dict(DEFAULTS)
    stops: list[str] = []
    for name, value in (options or {}).items():
        if value is None:
            continue
        if name in INTEGERS:
            _check(name, value, kind="integer", holds=_number)
            if (theirs := INTEGERS[name]) is not None:
                payload[theirs] = max(-INT32, min(int(value), INT32))
        elif name in FLOATS:
            _check(name, value, kind="float32", holds=_number)
            payload[FLOATS[name]] = float(value)
        elif name == "stop":
            _check(name, value, kind="array", holds=lambda given: isinstance(given, list))
            if not all(isinstance(stop, str) for stop in value):
                raise OptionError('option "stop" must be of an array of strings')
            stops = [stop for stop in value if stop]
    asked = (options or {}).get("num_ctx")
    room = min(context, max(int(asked), 8)) if asked else context
    if payload["n_predict"] <= 0:
        payload["n_predict"] = RUNAWAY_CONTEXTS * room
    _soften(payload, room)
    payload["stop"] = [*stops, *STOPS]
    # A reused prompt cache changes the order of sums, and so, now and then, a seeded answer.
    payload["cache_prompt"] = payload["seed"] < 0 and payload["temperature"] > 0
    return Sampling(payload, room)


def _soften(payload: dict[str, Any], room: int) -> None:
    """Bring values that Ollama takes and llama.cpp's server refuses to what they mean."""
    payload["n_keep"] = max(payload["n_keep"], -1)
    if payload["repeat_last_n"] < 0:
        payload["repeat_last_n"] = room
    if payload["repeat_penalty"] <= 0:
        payload["repeat_penalty"] = 1.0


def constraint(wanted: object) -> dict[str, Any]:
    """llama.cpp's words for a request's `format`; ValueError with Ollama's message."""
    if wanted in (None, ""):
        return {}
    if wanted == "json":
        return {"json_schema": {"type": "object", **WHITESPACE}}
    if isinstance(wanted, dict):
        return {"json_schema": _closed(wanted) | WHITESPACE}
    quoted = json.dumps(json.dumps(wanted))
    raise ValueError(f'invalid format: {quoted}; expected "json" or a valid JSON Schema object')


# A small model that may write any number of blanks writes nothing else.
WHITESPACE = {"x-guidance": {"whitespace_pattern": "[ \\n]{0,8}"}}


def _closed(schema: Any) -> Any:
    """The schema with objects that take no other properties than they name, as Ollama's do."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _closed(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict):
        closed["properties"] = {n: _closed(v) for n, v in schema["properties"].items()}
        closed.setdefault("additionalProperties", False)
    return closed
