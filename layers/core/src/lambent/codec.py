"""Turns the values of workflows into what MongoDB keeps, and back into the same values.

Kept as they are: None, bool, text, float, whole numbers of 64 bits, bytes, lists, and dicts whose
keys are plain text. Everything else becomes `{"~": <tag>, "v": <form>}`: other dicts, big whole
numbers, tuples, sets, instants, dates, times, durations, Decimal, UUID, enums, dataclasses and
pydantic models (by "module:Class"; found again by import, so they must stand at module level).
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from lambent.errors import Unserialisable

TAG: Final = "~"
_MAX_DEPTH: Final = 60  # BSON allows 100 levels; a tag costs one and the document around it some
_INT64: Final = 2**63


@dataclass(frozen=True, slots=True)
class Encoded:
    """A value in its stored form, and about how many bytes it takes there."""

    form: Any
    size_bytes: int


def encode(value: Any) -> Encoded:
    """The stored form. Raises `Unserialisable`, saying where in the value the trouble is."""
    encoder = _Encoder()
    form = encoder.form(value, "value", 0)
    return Encoded(form, encoder.size_bytes)


class _Encoder:
    def __init__(self) -> None:
        self.size_bytes = 0

    def form(self, value: Any, at: str, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise Unserialisable(f"{at} is nested more than {_MAX_DEPTH} levels deep.")
        self.size_bytes += 12
        kind = type(value)
        if value is None or kind is bool or kind is float:
            return value
        if kind is str:
            return self._text(value, at)
        if kind is int:
            return value if -_INT64 <= value < _INT64 else self._tagged("int", str(value))
        if kind is bytes:
            self.size_bytes += len(value)
            return value
        if kind is list:
            return self._list(value, at, depth)
        if kind is dict:
            return self._dict(value, at, depth)
        if (simple := _SIMPLE.get(kind)) is not None:
            return self._tagged(simple[0], simple[1](value))
        if kind in _COLLECTIONS:
            items = self._list(_ordered(value), at, depth + 1)
            return {TAG: _COLLECTIONS[kind], "v": items}
        return self._named(value, at, depth)

    def _text(self, value: str, at: str) -> str:
        try:
            self.size_bytes += len(value.encode())
        except UnicodeEncodeError:
            raise Unserialisable(f"{at} holds a lone surrogate, which is no text.") from None
        return value

    def _tagged(self, tag: str, form: Any) -> dict[str, Any]:
        self.size_bytes += 20 + (len(form) if isinstance(form, str | bytes) else 8)
        return {TAG: tag, "v": form}

    def _list(self, items: list[Any], at: str, depth: int) -> list[Any]:
        return [self.form(item, f"{at}[{i}]", depth + 1) for i, item in enumerate(items)]

    def _dict(self, value: dict[Any, Any], at: str, depth: int) -> dict[str, Any]:
        if all(map(_plain_key, value)):
            for key in value:
                self.size_bytes += len(key.encode("utf-8", "surrogatepass"))
            return {key: self.form(v, f"{at}.{key}", depth + 1) for key, v in value.items()}
        pairs = [
            [self.form(k, f"{at} key {k!r}", depth + 2), self.form(v, f"{at}[{k!r}]", depth + 2)]
            for k, v in value.items()
        ]
        return {TAG: "dict", "v": pairs}

    def _named(self, value: Any, at: str, depth: int) -> dict[str, Any]:
        kind = type(value)
        if isinstance(value, enum.Enum):
            self.size_bytes += 40
            form = [_path(kind, at), self.form(value.value, at, depth + 2)]
            return {TAG: "enum", "v": form}
        if _is_model(kind):
            fields = self._dict(_model_state(value), at, depth + 2)
            return {TAG: "model", "v": [_path(kind, at), fields, sorted(value.model_fields_set)]}
        if dataclasses.is_dataclass(kind):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(kind) if f.init}
            form = [_path(kind, at), self._dict(fields, at, depth + 2)]
            return {TAG: "dataclass", "v": form}
        raise Unserialisable(
            f"{at} is a {kind.__module__}.{kind.__qualname__}; kept are JSON's types, dates, "
            "Decimal, UUID, bytes, tuples, sets, enums, dataclasses and pydantic models."
        )


def decode(form: Any) -> Any:
    """The value that a stored form stands for. Raises `Unserialisable` where a class is gone."""
    kind = type(form)
    if kind in _AS_IS:
        return form
    if isinstance(form, dict) and TAG not in form:
        return {
            key: value if type(value) in _AS_IS else decode(value) for key, value in form.items()
        }
    if isinstance(form, list):
        return [decode(item) for item in form]
    if not isinstance(form, dict):
        # The driver gives numbers beyond 32 bits a class of its own.
        return int(form) if isinstance(form, int) else form
    tag, inner = form[TAG], form["v"]
    if tag in _DECODE:
        return _DECODE[tag](inner)
    raise Unserialisable(
        f"a value was kept under the tag {tag!r}, which this version does not know."
    )


def plain(form: Any) -> Any:
    """The stored form as plain JSON types, for people and other programs; needs no classes."""
    if isinstance(form, list):
        return [plain(item) for item in form]
    if isinstance(form, bytes):
        return _base64(form)
    if isinstance(form, datetime):
        return form.isoformat()
    if not isinstance(form, dict):
        return form
    if TAG not in form:
        return {key: plain(value) for key, value in form.items()}
    tag, inner = form[TAG], form["v"]
    if tag in {"model", "dataclass", "enum"}:
        return plain(inner[1])
    if tag == "dict":
        return {str(plain(key)): plain(value) for key, value in inner}
    if tag == "int":
        return int(inner)
    return plain(inner)


def _plain_key(key: Any) -> bool:
    return type(key) is str and key != TAG and key[:1] != "$" and "." not in key and "\0" not in key


def _ordered(value: Any) -> list[Any]:
    # A set has no order of its own: the same set must have the same stored form.
    return list(value) if isinstance(value, tuple) else sorted(value, key=repr)


def _path(kind: type, at: str) -> str:
    path = f"{kind.__module__}:{kind.__qualname__}"
    try:
        found = _class(path)
    except Unserialisable:
        found = None
    if found is not kind:
        raise Unserialisable(f"{at} is a {path}, which no import finds; define it at module level.")
    return path


def _class(path: str) -> Any:
    module, _, name = path.partition(":")
    try:
        found: Any = sys.modules.get(module) or importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        raise Unserialisable(f"a value was kept as {path}, which is no longer there.") from None
    return found


def _is_model(kind: type) -> bool:
    # No import: a value can only be a model if pydantic is loaded already.
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(kind, pydantic.BaseModel)


def _model_state(model: Any) -> dict[str, Any]:
    # All fields, not only those that were set: a default list may have been appended to.
    return {name: getattr(model, name) for name in type(model).model_fields} | (
        model.model_extra or {}
    )


def _decode_model(inner: list[Any]) -> Any:
    path, fields, were_set = inner
    # Not validated again: the values are as they were, and a validator may not accept its output.
    return _class(path).model_construct(_fields_set=set(were_set), **decode(fields))


def _decode_dataclass(inner: list[Any]) -> Any:
    path, fields = inner
    return _class(path)(**decode(fields))


def _base64(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode()


def _instant(value: datetime) -> str:
    return value.isoformat()


def _aware(text: str) -> datetime:
    found = datetime.fromisoformat(text)
    return found.astimezone(UTC) if found.tzinfo is not None and not found.utcoffset() else found


# These stand for themselves; asked first, as most of what a replay decodes is of them.
_AS_IS: Final = frozenset({str, int, bool, float, bytes, type(None)})
# UTC is by far the commonest zone, and must come back as UTC itself.
_SIMPLE: Final[Mapping[type, tuple[str, Callable[[Any], Any]]]] = {
    datetime: ("datetime", _instant),
    date: ("date", date.isoformat),
    time: ("time", time.isoformat),
    timedelta: ("timedelta", lambda v: [v.days, v.seconds, v.microseconds]),
    Decimal: ("decimal", str),
    UUID: ("uuid", str),
    bytearray: ("bytearray", bytes),
}
_COLLECTIONS: Final[Mapping[type, str]] = {tuple: "tuple", set: "set", frozenset: "frozenset"}
_DECODE: Final[Mapping[str, Callable[[Any], Any]]] = {
    "int": int,
    "dict": lambda v: {decode(key): decode(value) for key, value in v},
    "tuple": lambda v: tuple(map(decode, v)),
    "set": lambda v: set(map(decode, v)),
    "frozenset": lambda v: frozenset(map(decode, v)),
    "datetime": _aware,
    "date": date.fromisoformat,
    "time": time.fromisoformat,
    "timedelta": lambda v: timedelta(v[0], v[1], v[2]),
    "decimal": Decimal,
    "uuid": UUID,
    "bytearray": bytearray,
    "enum": lambda v: _class(v[0])(decode(v[1])),
    "model": _decode_model,
    "dataclass": _decode_dataclass,
}
