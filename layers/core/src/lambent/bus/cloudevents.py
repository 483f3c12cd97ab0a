"""Reads and writes CloudEvents 1.0: structured, binary and batched, strictly.

Sources: CloudEvents 1.0.2 core, its JSON event format and its HTTP protocol binding.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NoReturn
from urllib.parse import unquote_to_bytes, urlsplit

from lambent.errors import TooLarge, Unprocessable, UnsupportedMedia

STRUCTURED: Final = "application/cloudevents+json"
BATCH: Final = "application/cloudevents-batch+json"
MAX_BATCH: Final = 100
MAX_DATA_BYTES: Final = 1_000_000
MAX_DEPTH: Final = 60  # MongoDB nests 100 levels at most, and a wait holds a copy of the data

_ATTRIBUTES: Final = ("datacontenttype", "dataschema", "id", "source", "subject", "time", "type")
_REQUIRED: Final = ("id", "source", "type")
_EXTENSION: Final = re.compile(r"[a-z0-9]{1,64}")
_MEDIA: Final = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(\s*;.*)?")
_URI_REFERENCE: Final = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]+")
_RFC3339: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_INT32: Final = range(-(2**31), 2**31)
_INT64: Final = range(-(2**63), 2**63)
_MAX_ATTRIBUTE_CHARS: Final = 1024

Attribute = str | int | bool
Problem = dict[str, str]


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """One event. `data` is a JSON value or bytes; `time` the producer's RFC 3339 text, as given."""

    id: str
    source: str
    type: str
    subject: str | None = None
    time: str | None = None
    datacontenttype: str | None = None
    dataschema: str | None = None
    data: Any = None
    extensions: Mapping[str, Attribute] = field(default_factory=dict)


def read_http(headers: Mapping[str, str], body: bytes) -> list[CloudEvent]:
    """The events of one HTTP request, in whichever of the three content modes it came.

    `headers` have lower-case names. Plain `application/json` is read as structured, or as a batch
    if it is a list. Raises `Unprocessable` with each problem, `UnsupportedMedia`, `TooLarge`.
    """
    content_type = headers.get("content-type", "")
    media = content_type.partition(";")[0].strip().lower()
    if media.startswith("application/cloudevents") and media not in (STRUCTURED, BATCH):
        raise UnsupportedMedia(f"Only the JSON format of CloudEvents is understood, not {media}.")
    if media == BATCH:
        return _read_batch(parse_json(body))
    if media == STRUCTURED:
        return [_read_one(parse_json(body), "")]
    if "ce-specversion" in headers:
        return [_read_binary(headers, body, media)]
    if media == "application/json":
        value = parse_json(body)
        return _read_batch(value) if isinstance(value, list) else [_read_one(value, "")]
    raise UnsupportedMedia(
        f"Send {STRUCTURED}, {BATCH}, or binary mode with a ce-specversion header."
    )


def to_structured(event: CloudEvent) -> dict[str, Any]:
    """The event as the JSON format writes it; bytes become `data_base64`."""
    named = {name: getattr(event, name) for name in _ATTRIBUTES}
    shown: dict[str, Any] = {"specversion": "1.0"}
    shown |= {name: value for name, value in named.items() if value is not None}
    shown |= event.extensions
    if isinstance(event.data, bytes):
        shown["data_base64"] = base64.b64encode(event.data).decode()
    elif event.data is not None:
        shown["data"] = event.data
    return shown


def parse_json(body: bytes) -> Any:
    """Strict JSON that the store can keep; raises `Unprocessable`."""
    try:
        return json.loads(body, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        _refuse([_problem("", f"the body is not JSON: {error}")])


def check(event: CloudEvent) -> CloudEvent:
    """The event itself, after every check; raises `Unprocessable` that lists each problem."""
    problems = list(_problems(event))
    if problems:
        _refuse(problems)
    if _size_bytes(event.data) > MAX_DATA_BYTES:
        raise TooLarge(f"The data of an event may have {MAX_DATA_BYTES} bytes.")
    return event


def _read_batch(value: Any) -> list[CloudEvent]:
    if not isinstance(value, list):
        _refuse([_problem("", "a batch is a list of events")])
    if not 1 <= len(value) <= MAX_BATCH:
        _refuse([_problem("", f"a batch has 1 to {MAX_BATCH} events, not {len(value)}")])
    events, problems = [], []
    for index, one in enumerate(value):
        try:
            events.append(_read_one(one, f"[{index}]"))
        except Unprocessable as error:
            problems += error.fields["errors"]
    if problems:
        _refuse(problems)
    return events


def _read_one(value: Any, where: str) -> CloudEvent:
    if not isinstance(value, dict):
        _refuse([_problem(where, "an event is a JSON object")])
    # The JSON format lets an absent attribute be written as null.
    given = {name: one for name, one in value.items() if one is not None or name == "data"}
    problems = []
    if given.pop("specversion", None) != "1.0":
        problems.append(_problem("specversion", 'must be "1.0"'))
    if "data" in given and "data_base64" in given:
        problems.append(_problem("data_base64", "not together with data"))
    encoded, data = given.pop("data_base64", None), given.pop("data", None)
    if encoded is not None:
        try:
            data = base64.b64decode(encoded, validate=True)
        except (TypeError, ValueError, binascii.Error):
            problems.append(_problem("data_base64", "is not Base64"))
    event = _event(given, data)
    problems += _problems(event)
    if problems:
        prefix = f"{where}." if where else ""
        _refuse([one | {"field": f"{prefix}{one['field']}"} for one in problems])
    return check(event)


def _read_binary(headers: Mapping[str, str], body: bytes, media: str) -> CloudEvent:
    given: dict[str, Any] = {}
    problems = []
    for name, value in headers.items():
        if name.startswith("ce-"):
            try:
                # The HTTP binding percent-encodes what a header cannot carry (section 3.1.3.2).
                given[name[3:]] = unquote_to_bytes(value).decode()
            except UnicodeDecodeError:
                problems.append(_problem(name, "is not percent-encoded UTF-8"))
    if given.pop("specversion", None) != "1.0":
        problems.append(_problem("ce-specversion", 'must be "1.0"'))
    for name in ("data", "data_base64", "datacontenttype"):
        if given.pop(name, None) is not None:
            problems.append(_problem(f"ce-{name}", "is not an attribute in binary mode"))
    if media:
        given["datacontenttype"] = headers["content-type"]
    event = _event(given, _binary_data(body, media))
    problems += [one | {"field": f"ce-{one['field']}"} for one in _problems(event)]
    if problems:
        _refuse(problems)
    return check(event)


def _binary_data(body: bytes, media: str) -> Any:
    if not body:
        return None
    if media in ("application/json", "text/json") or media.endswith("+json"):
        return parse_json(body)
    if media.startswith("text/"):
        try:
            return body.decode()
        except UnicodeDecodeError:
            return body
    return body


def _event(given: Mapping[str, Any], data: Any) -> CloudEvent:
    known: dict[str, Any] = {name: given.get(name) for name in _ATTRIBUTES}
    for name in _REQUIRED:
        known[name] = given.get(name, "")
    extensions = {name: value for name, value in given.items() if name not in _ATTRIBUTES}
    return CloudEvent(**known, data=data, extensions=extensions)


def _problems(event: CloudEvent) -> Iterator[Problem]:
    for name in _ATTRIBUTES:
        value = getattr(event, name)
        if value is not None and (complaint := _attribute_complaint(name, value)):
            yield _problem(name, complaint)
    for name, value in event.extensions.items():
        if complaint := _extension_complaint(name, value):
            yield _problem(name, complaint)
    if complaint := storable_complaint(event.data):
        yield _problem("data", complaint)


def _attribute_complaint(name: str, value: Any) -> str:
    if not isinstance(value, str):
        return "must be a string"
    if not value:
        return "is required" if name in _REQUIRED else "must not be empty"
    return _text_complaint(value) or _form_complaint(name, value)


def _extension_complaint(name: str, value: Any) -> str:
    if not _EXTENSION.fullmatch(name):
        return "a name has 1 to 64 lower-case letters and digits"
    if isinstance(value, str):
        return _text_complaint(value)
    if isinstance(value, bool) or (isinstance(value, int) and value in _INT32):
        return ""
    return "must be a string, a boolean or a 32-bit integer"


def _text_complaint(value: str) -> str:
    if len(value) > _MAX_ATTRIBUTE_CHARS:
        return f"must not have more than {_MAX_ATTRIBUTE_CHARS} characters"
    # Core, section "Type System": no control characters, no surrogates.
    if any(ord(one) < 0x20 or 0x7F <= ord(one) <= 0x9F or _surrogate(one) for one in value):
        return "must not contain control characters or lone surrogates"
    return ""


def _form_complaint(name: str, value: str) -> str:
    match name:
        case "source" if not _URI_REFERENCE.fullmatch(value):
            return "must be a URI reference"
        case "dataschema" if not (_URI_REFERENCE.fullmatch(value) and urlsplit(value).scheme):
            return "must be an absolute URI"
        case "datacontenttype" if not _MEDIA.fullmatch(value):
            return "must be a media type"
        case "time" if not _is_instant(value):
            return "must be an RFC 3339 time with its offset"
        case _:
            return ""


def _is_instant(value: str) -> bool:
    if not _RFC3339.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value[:19])
    except ValueError:
        return value[17:19] == "60"  # a leap second is a valid RFC 3339 time
    return True


def storable_complaint(data: Any) -> str:
    """Why MongoDB could not keep these JSON data, or nothing. Walks without recursion."""
    left: list[tuple[Any, int]] = [(data, 0)]
    while left:
        value, depth = left.pop()
        if depth > MAX_DEPTH:
            return f"is nested more than {MAX_DEPTH} levels deep"
        if isinstance(value, Mapping):
            for name in value:
                if "\0" in name or any(map(_surrogate, name)) or name.startswith("$"):
                    return f"has a name that cannot be kept: {name!r}"
            left += [(one, depth + 1) for one in value.values()]
        elif isinstance(value, list):
            left += [(one, depth + 1) for one in value]
        elif isinstance(value, str) and any(map(_surrogate, value)):
            return "contains a lone surrogate"
        elif isinstance(value, float) and not math.isfinite(value):
            return "contains a number that JSON has no word for"
        elif isinstance(value, int) and value not in _INT64:
            return "contains an integer of more than 64 bits"
    return ""


def _surrogate(character: str) -> bool:
    return "\ud800" <= character <= "\udfff"


def _size_bytes(data: Any) -> int:
    if data is None or isinstance(data, bytes):
        return len(data or b"")
    return len(json.dumps(data, ensure_ascii=False).encode())


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large for a double")
    return number


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _problem(name: str, message: str) -> Problem:
    return {"field": name, "message": message}


def _refuse(problems: Sequence[Problem]) -> NoReturn:
    first = f"{problems[0]['field']} {problems[0]['message']}".strip()
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    raise Unprocessable(f"Not a CloudEvent: {first}{more}", fields={"errors": list(problems)})
