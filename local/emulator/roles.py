"""Which functions a function's own role lets it invoke, as the template says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_INVOKE: Final = "lambda:InvokeFunction"


def invocable(role: Mapping[str, Any]) -> frozenset[str]:
    """The ARNs that the inline policies of the role's resolved properties grant, as they stand.

    Patterns and managed policies grant nothing here: the platform's template uses neither for it.
    """
    granted: set[str] = set()
    for policy in role.get("Policies") or []:
        for statement in policy["PolicyDocument"]["Statement"]:
            if statement["Effect"] == "Allow" and _INVOKE in _list(statement["Action"]):
                granted.update(str(one) for one in _list(statement["Resource"]))
    return frozenset(granted)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
