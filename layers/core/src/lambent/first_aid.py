"""Says in one line what is wrong with a deployment and what to do, for the first who meets it."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import cache, wraps
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from lambent.errors import ConfigError, LambentError, NotSetUp, StoreUnavailable
from lambent.telemetry import logger, redact

P = ParamSpec("P")
T = TypeVar("T")

# CloudFormation takes 4 KB for its whole answer.
_LENGTH: Final = 900
# Written into the core layer when it is built: the processor of its compiled files.
_BUILT_FOR: Final = Path(__file__).with_name("built-for")
_SAME: Final = "Give `sam build` and `sam deploy` the same Architecture."
_OTHER: Final = "The layers were built for another processor ({}; this one is {}). {}"


class Misdeployed(LambentError):
    """Whoever operates the deployment has to change something; the message says what."""

    code = "misdeployed"
    title = "The deployment is not usable"


def explain(error: BaseException) -> str:
    """One line on what is wrong and what to do, without a secret in it."""
    match error:
        case ConfigError():
            said = f"The configuration is not usable: {error}. Change the stack's parameters."
        case StoreUnavailable():
            check = "Check its address, the network and the credentials."
            advice = "" if isinstance(error, NotSetUp) else f" {check}"
            cause = f" ({error.__cause__})" if error.__cause__ else ""
            said = f"{error}{advice}{cause}"
        case LambentError():
            said = str(error)
        case TimeoutError():
            said = "It took too long. Check that MongoDB and Postgres are reached from here."
        case ImportError():
            said = f"{error}. Were the layers built for another processor? {_SAME}"
        case _:
            said = f"{type(error).__name__}: {error}"
    return redact(" ".join(said.split()))[:_LENGTH]


def started_plainly(start: Callable[P, T]) -> Callable[P, T]:
    """What keeps an environment from starting is raised as one line on what to do."""

    @wraps(start)
    def starting(*args: P.args, **kwargs: P.kwargs) -> T:
        _check_processor()
        try:
            return start(*args, **kwargs)
        except (ConfigError, ImportError) as error:
            raise _told(error) from error

    return starting


def plainly(work: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """The same for an invocation, which may find a store away or without its tables."""

    @wraps(work)
    async def working(*args: P.args, **kwargs: P.kwargs) -> T:
        _check_processor()
        try:
            return await work(*args, **kwargs)
        except (ConfigError, ImportError, StoreUnavailable) as error:
            raise _told(error) from error

    return working


def _check_processor() -> None:
    """Most drivers do without their compiled files, slowly: nothing would fail, or only later."""
    if (built_for := _built_for()) and built_for != (here := os.uname().machine):
        raise _told(Misdeployed(_OTHER.format(built_for, here, _SAME)))


@cache
def _built_for() -> str:
    try:
        return _BUILT_FOR.read_text().strip()
    except FileNotFoundError:  # no layer: the source itself
        return ""


def _told(error: BaseException) -> Misdeployed:
    said = explain(error)
    # In the log, too: who is asked over HTTP tells a stranger nothing of it.
    logger().critical(said)
    return Misdeployed(said)
