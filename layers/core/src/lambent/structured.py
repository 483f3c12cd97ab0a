"""Structured answers: a pydantic object out of a model's text, with one chance to mend it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from lambent.errors import LambentError

if TYPE_CHECKING:
    from pydantic import BaseModel

M = TypeVar("M", bound="BaseModel")


class BadStructure(LambentError):
    """The model's answer fits its schema neither at first nor when it was told why."""

    status = 502
    code = "bad_structure"
    title = "The model's answer does not fit its schema"


def schema_of(wanted: type[BaseModel]) -> Mapping[str, Any]:
    """What Ollama is given as `format`."""
    return wanted.model_json_schema()


def parsed(wanted: type[M], text: str) -> M | str:
    """The object, or what is wrong, as a model can act on it."""
    from pydantic import ValidationError

    try:
        return wanted.model_validate_json(text)
    except ValidationError as error:
        return problems_of(error)


def repair_of(problems: str) -> str:
    """What the model is told."""
    return f"Your answer is not valid: {problems}. Answer again, with corrected JSON and no more."


def problems_of(error: Any) -> str:
    """A pydantic error as a model can act on it."""
    told = error.errors(include_url=False, include_input=False, include_context=False)
    parts = [f"{'.'.join(str(p) for p in one['loc']) or 'all'}: {one['msg']}" for one in told]
    return "; ".join(parts[:20])
