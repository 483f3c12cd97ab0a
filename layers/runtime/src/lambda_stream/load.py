"""Finds the handler: the import path of a managed runtime, the module, the kind of callable."""

from __future__ import annotations

import importlib
import inspect
import os
import site
import sys
import traceback
from typing import Any

from lambda_stream.failure import RuntimeFault
from lambda_stream.function import Function

LAYER_ROOT = "/opt/python"


def set_import_path() -> None:
    """Task root, layers' site-packages, layers, then the rest; with the .pth files of each."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    folders = [f"{LAYER_ROOT}/lib/{version}/site-packages", LAYER_ROOT]
    if root := os.environ.get("LAMBDA_TASK_ROOT"):
        folders.insert(0, root)
    present = [folder for folder in folders if os.path.isdir(folder)]
    sys.path[:] = present + [path for path in sys.path if path not in present]
    for folder in present:
        site.addsitedir(folder)


def load_function(name: str) -> Function:
    """The value behind `module.attribute` as a Function. Raises RuntimeFault."""
    module_name, dot, attribute = name.rpartition(".")
    if not dot or not module_name or not attribute:
        raise RuntimeFault("Runtime.MalformedHandlerName", f"Bad handler '{name}'")
    if module_name.split(".")[0] in sys.builtin_module_names:
        raise RuntimeFault(
            "Runtime.BuiltInModuleConflict",
            f"Cannot use built-in module {module_name} as a handler module",
        )
    try:
        module = importlib.import_module(module_name.replace("/", "."))
    except ImportError as error:
        raise RuntimeFault(
            "Runtime.ImportModuleError",
            f"Unable to import module '{module_name}': {error}",
            tuple(traceback.format_tb(error.__traceback__)[-3:]),
        ) from error
    except SyntaxError as error:
        raise RuntimeFault(
            "Runtime.UserCodeSyntaxError",
            f"Syntax error in module '{module_name}': {error}",
            (f'  File "{error.filename}" Line {error.lineno}\n    {error.text}',),
        ) from error
    try:
        value = getattr(module, attribute)
    except AttributeError:
        raise RuntimeFault(
            "Runtime.HandlerNotFound", f"Handler '{attribute}' missing on module '{module_name}'"
        ) from None
    return as_function(value, name)


def as_function(value: Any, name: str) -> Function:
    """A Function as it is; a callable with three needed parameters is an ASGI application."""
    if isinstance(value, Function):
        return value
    if not callable(value):
        raise RuntimeFault("Runtime.HandlerNotFound", f"Handler '{name}' is not callable")
    return Function(asgi=value) if _takes_three(value) else Function(event=value)


def _takes_three(value: Any) -> bool:
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):
        return False
    needed = [
        p
        for p in parameters
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    return len(needed) == 3
