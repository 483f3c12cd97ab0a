"""Says what of an input does not fit what its workflow declares, before a run is made of it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from lambent.engine.registry import Registry, Workflow
from lambent.errors import NotFound, Unprocessable

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_MOST: Final = 20
Problems = list[dict[str, str]]


def check_input(workflows: Registry, name: str, version: int | None, value: Any) -> None:
    """Raises `Unprocessable` that names each field. What is not deployed, nobody here knows: any
    input may be right for it."""
    try:
        workflow = workflows.named(name, version)
    except NotFound:
        return
    if (problem := misfit(workflow, value)) is not None:
        raise problem


def misfit(workflow: Workflow, value: Any) -> Unprocessable | None:
    """The error to refuse the input with; None where it fits, or nothing is declared.

    Nothing is converted: the workflow gets what was sent, so "5" is no whole number here. No input
    is as good as an empty object: whoever leaves everything out may leave that out, too.
    """
    declared = workflow.input
    if declared is None or (isinstance(declared, type) and isinstance(value, declared)):
        return None
    errors = _problems(declared, value)
    if errors and value is None:
        errors = _problems(declared, {})
    if not errors:
        return None
    named = ", ".join(one["field"] for one in errors)
    expects = f"{workflow.name}, version {workflow.version}, expects"
    return Unprocessable(f"The input is not what {expects}: {named}.", fields={"errors": errors})


def _problems(declared: Any, value: Any) -> Problems:
    # Here and not above: a function that starts nothing of this kind does not pay for it.
    from pydantic import ValidationError
    from pydantic_core import PydanticSerializationError, to_json

    adapter = _adapter(declared)
    if adapter is None:
        return []
    try:
        # As JSON, which is what the schema describes: a child's input may hold tuples and dates.
        text = to_json(value)
    except PydanticSerializationError:
        return []
    try:
        adapter.validate_json(text, strict=True)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return [
            {"field": ".".join(["input", *map(str, one["loc"])]), "message": one["msg"]}
            for one in found[:_MOST]
        ]
    except Exception as error:  # an author's validator over a caller's input
        return [{"field": "input", "message": f"It cannot be checked: {error!r}"}]
    return []


@cache
def _adapter(declared: Any) -> TypeAdapter[Any] | None:
    """None for what has no schema: then there is nothing to hold an input against."""
    from pydantic import TypeAdapter
    from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError

    try:
        return TypeAdapter(declared)
    except (PydanticUserError, PydanticUndefinedAnnotation):
        return None
