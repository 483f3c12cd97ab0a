"""Says in one line what is wrong with a deployment and what to do, for the first who meets it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Final, ParamSpec, TypeVar

from lambent.errors import ConfigError, LambentError, NotSetUp, StoreUnavailable
from lambent.telemetry import logger, redact

P = ParamSpec("P")
T = TypeVar("T")

# CloudFormation takes 4 KB for its whole answer.
_LENGTH: Final = 900


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
            said = (
                f"{error}. Were the layers built for another processor? Give `sam build` and "
                "`sam deploy` the same Architecture."
            )
        case _:
            said = f"{type(error).__name__}: {error}"
    return redact(" ".join(said.split()))[:_LENGTH]


def started_plainly(start: Callable[P, T]) -> Callable[P, T]:
    """What keeps an environment from starting is raised as one line on what to do."""

    @wraps(start)
    def starting(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return start(*args, **kwargs)
        except (ConfigError, ImportError) as error:
            raise _told(error) from error

    return starting


def plainly(work: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """The same for an invocation, which may find a store away or without its tables."""

    @wraps(work)
    async def working(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await work(*args, **kwargs)
        except (ConfigError, ImportError, StoreUnavailable) as error:
            raise _told(error) from error

    return working


def _told(error: BaseException) -> Misdeployed:
    said = explain(error)
    # In the log, too: who is asked over HTTP tells a stranger nothing of it.
    logger().critical(said)
    return Misdeployed(said)
