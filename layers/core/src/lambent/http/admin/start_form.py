"""Makes a form of a workflow's input schema, and the input of what was filled in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from lambent.errors import RequestError, Unprocessable
from lambent.http.bodies import parse_json as strict_json

_PREFIX: Final = "in."


@dataclass(frozen=True, slots=True)
class Field:
    """One input of the form. `kind`: text, number, check, choice, or json for what has parts.
    `choices`: each one's JSON and what is shown of it; `type`: the browser's, for a text."""

    name: str
    label: str
    kind: str
    required: bool
    hint: str
    value: str
    choices: tuple[tuple[str, str], ...] = ()
    type: str = "text"


def fields_of(schema: Mapping[str, Any] | None) -> list[Field]:
    """The fields for an object's schema; none where a workflow says nothing of its input."""
    if not schema or schema.get("type") != "object":
        return []
    required, named = set(schema.get("required", ())), schema.get("$defs", {})
    return [
        _field(name, _resolved(part, named), required=name in required)
        for name, part in schema.get("properties", {}).items()
    ]


def _resolved(part: Mapping[str, Any], named: Mapping[str, Any]) -> Mapping[str, Any]:
    """The one kind of value that is meant, null aside, with what stands elsewhere in the schema."""
    kinds = [one for one in part.get("anyOf", ()) if one.get("type") != "null"]
    for meant in (kinds, part.get("allOf", ())):
        part = {**meant[0], **part} if len(meant) == 1 else part
    there = named.get(str(part.get("$ref", "")).removeprefix("#/$defs/"), {})
    return {**there, **part}


def _field(name: str, part: Mapping[str, Any], *, required: bool) -> Field:
    choices = tuple(
        (json.dumps(one), one if isinstance(one, str) else json.dumps(one))
        for one in part.get("enum", ())
    )
    simple = {"string": "text", "integer": "number", "number": "number", "boolean": "check"}
    kind = "choice" if choices else simple.get(str(part.get("type")), "json")
    value = part.get("default")
    shown = "" if value is None else value if kind == "text" else json.dumps(value)
    label = str(part.get("title", name))
    hint = " ".join(filter(None, [str(part.get("description", "")), _bounds(part)]))
    type = "date" if part.get("format") == "date" else "text"
    return Field(name, label, kind, required, hint, shown, choices, type)


def _bounds(part: Mapping[str, Any]) -> str:
    """What the schema asks of a number or an instant, in words."""
    least, most = part.get("minimum"), part.get("maximum")
    said = ["A whole number."] if part.get("type") == "integer" else []
    said += [f"At least {least}."] if least is not None else []
    said += [f"At most {most}."] if most is not None else []
    said += ["As 2026-11-28T10:00:00Z."] if part.get("format") == "date-time" else []
    return " ".join(said)


def input_of(form: Mapping[str, str]) -> Any:
    """The input: of the whole JSON where it was written as such, else of the fields.

    A field that was left empty is left out. Raises `Unprocessable` that names the field.
    """
    if form.get("input", "").strip():
        return parse_json(form["input"], "input")
    kinds = {name.removeprefix("kind."): kind for name, kind in form.items() if name[:5] == "kind."}
    if not kinds:
        return None
    value: dict[str, Any] = {}
    for name, told in kinds.items():
        sent = form.get(_PREFIX + name, "")
        kind, _, required = told.partition(" ")
        if required and kind != "check" and not sent.strip():
            raise wrong(name, "has to be given")
        match kind:
            case "check":
                value[name] = bool(sent)
            case "text":
                if sent:
                    value[name] = sent
            case _:
                if sent.strip():
                    value[name] = parse_json(sent, name)
    return value


def parse_json(text: str, field: str) -> Any:
    """The JSON of a form's text; nothing is null. Raises `Unprocessable` that names the field."""
    if not text.strip():
        return None
    try:
        return strict_json(text.encode(), what=field)
    except RequestError as error:
        raise wrong(field, error.detail.removeprefix(f"{field} ").removesuffix(".")) from None


def wrong(field: str, said: str) -> Unprocessable:
    """The error that names one field of a form."""
    errors = [{"field": field, "message": said}]
    return Unprocessable(f"{field} {said}.", fields={"errors": errors})
