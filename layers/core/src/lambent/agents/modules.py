"""Imports the modules that a deployment names, and tells every one that fails."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from types import ModuleType

from lambent.errors import ConfigError


def import_modules(names: Iterable[str]) -> list[ModuleType]:
    """Import each module, and for a package all modules in it, in order and each once.

    Raises `ConfigError` with every module that is missing or broken.
    """
    found: dict[str, ModuleType] = {}
    problems: list[str] = []
    pending = list(names)
    while pending:
        name = pending.pop(0)
        if name in found:
            continue
        try:
            module = importlib.import_module(name)
        # An author's module may fail in any way; one report must name all that do.
        except (Exception, SystemExit) as error:
            problems.append(_problem(name, error))
            continue
        found[name] = module
        inner = pkgutil.iter_modules(getattr(module, "__path__", ()), prefix=f"{name}.")
        pending.extend(one.name for one in inner)
    if problems:
        raise ConfigError(problems)
    return list(found.values())


def _problem(name: str, error: BaseException) -> str:
    if (
        isinstance(error, ModuleNotFoundError)
        and error.name
        and f"{name}.".startswith(f"{error.name}.")
    ):
        return f"AGENT_MODULES names {name}, and there is no such module"
    said = " ".join(str(error).split())
    return f"AGENT_MODULES: {name} cannot be imported: {type(error).__name__}: {said}"
