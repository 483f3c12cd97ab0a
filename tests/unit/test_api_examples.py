"""What the API's description shows as examples fits what it says of the same values."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from lambent.http.reference import _shown_value
from tests.unit.api_document import api_document, examples_of, operations

FORMATS = FormatChecker(["date"])
# How a schema's own part may hold schemas by names of somebody's choice, which are no keywords.
NAMED = ("properties", "$defs", "schemas")


@FORMATS.checks("date-time", raises=ValueError)
def is_instant(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


@pytest.fixture
async def document() -> dict[str, Any]:
    return await api_document()


def wrong(document: dict[str, Any], schema: dict[str, Any], value: Any) -> list[str]:
    whole = {**schema, "components": document["components"]}
    checker = Draft202012Validator(whole, format_checker=FORMATS)
    return [one.message for one in checker.iter_errors(value)]


def schemas_of(part: Any, where: str, *, named: bool = False) -> Iterator[tuple[str, Any]]:
    """Each object below that has examples, and where it stands."""
    if isinstance(part, list):
        for place, one in enumerate(part):
            yield from schemas_of(one, f"{where}[{place}]")
    if not isinstance(part, dict):
        return
    if not named and ("examples" in part or "example" in part):
        yield where, part
    for name, one in part.items():
        if named or name not in ("examples", "example", "default", "const", "enum"):
            yield from schemas_of(one, f"{where}.{name}", named=not named and name in NAMED)


async def test_every_body_has_an_example_that_fits_it(document: dict[str, Any]) -> None:
    for method, path, one in operations(document):
        for kind, media in one.get("requestBody", {}).get("content", {}).items():
            examples = examples_of(document, media)
            assert examples, f"{method} {path} ({kind}) has no example"
            for example in examples:
                assert not wrong(document, media["schema"], example), (method, path, kind)


async def test_every_example_of_a_part_fits_the_part(document: dict[str, Any]) -> None:
    found = list(schemas_of(document["components"]["schemas"], "schemas", named=True))
    assert len(found) > 40
    for where, schema in found:
        for example in schema.get("examples", [schema.get("example")]):
            assert not wrong(document, schema, example), where


async def test_every_answer_that_the_page_shows_fits_its_schema(document: dict[str, Any]) -> None:
    for method, path, one in operations(document):
        for status, answer in one["responses"].items():
            for kind, media in answer.get("content", {}).items():
                if "json" not in kind or "schema" not in media:
                    continue
                shown = _shown_value(document, media)
                assert not wrong(document, media["schema"], shown), (method, path, status)
