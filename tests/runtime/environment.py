"""The types behind the runtime fixtures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.runtime.process import RuntimeProcess
from tests.runtime.strict_api import StrictRuntimeAPI


@dataclass(frozen=True)
class Environment:
    """An execution environment and the Runtime API it talks to."""

    api: StrictRuntimeAPI
    process: RuntimeProcess


Start = Callable[..., Environment]
