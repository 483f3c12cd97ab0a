"""Every error the platform raises on purpose, sorted by what the caller has to do about it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class LambentError(Exception):
    """The root of the tree.

    `status` is the HTTP status that the edge answers with, `code` names the problem in problem
    documents and in OpenAI's error shape: both belong to the class, never to the message.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str = "", *, fields: Mapping[str, Any] | None = None) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.fields: dict[str, Any] = dict(fields or {})


class ConfigError(LambentError):
    """The deployment is configured wrongly; every problem found is listed, not only the first."""

    code = "config"
    title = "The configuration is not usable"

    def __init__(self, problems: str | Sequence[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("; ".join(self.problems))


class RequestError(LambentError):
    """The caller's fault: sending the same request again will not help."""

    status = 400
    code = "bad_request"
    title = "The request is not valid"


class Unauthenticated(RequestError):
    """No key, or one that is unknown, revoked or expired: the answer is the same."""

    status = 401
    code = "unauthenticated"
    title = "A valid API key is required"

    def __init__(self, detail: str = "", *, fields: Mapping[str, Any] | None = None) -> None:
        how = "Send a key that is known and neither revoked nor expired, as a bearer token "
        super().__init__(detail or f"{how}in Authorization, or in X-API-Key.", fields=fields)


class Forbidden(RequestError):
    """The key is good, but its scopes do not reach this."""

    status = 403
    code = "forbidden"
    title = "This key may not do that"


class NotThroughFront(RequestError):
    """The request went around the front that this deployment stands behind."""

    status = 403
    code = "not_through_front"
    title = "Reached only through its front"


class NotFound(RequestError):
    """It does not exist, or it belongs to another client: the answer is the same."""

    status = 404
    code = "not_found"
    title = "Not found"


class MethodNotAllowed(RequestError):
    status = 405
    code = "method_not_allowed"
    title = "This path does not know that method"


class Conflict(RequestError):
    """The present state does not allow it."""

    status = 409
    code = "conflict"
    title = "The present state does not allow this"


class TurnParked(LambentError):
    """A durable turn's run rests until somebody lets it go on; the detail says why, and which."""

    code = "turn_parked"
    title = "The turn is parked"


class StreamStopped(RequestError):
    """Someone asked for the stream's end, or let the lease of its readers lapse."""

    status = 409
    code = "stopped"
    title = "The stream was stopped"


def revived(
    code: str, detail: str, fields: Mapping[str, Any], retry_after_s: float | None
) -> LambentError:
    """An error that was told before, to be raised again."""
    kinds: list[type[LambentError]] = [LambentError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    kind = next((one for one in kinds if one.code == code), LambentError)
    error = kind.__new__(kind)
    LambentError.__init__(error, detail, fields=fields)
    if isinstance(error, RetryLater):
        error.retry_after_s = retry_after_s or 1.0
    return error


class Gone(RequestError):
    """It was here, and its time is over."""

    status = 410
    code = "gone"
    title = "No longer available"


class TooLarge(RequestError):
    status = 413
    code = "too_large"
    title = "The body is too large"


class UnsupportedMedia(RequestError):
    status = 415
    code = "unsupported_media_type"
    title = "This content type is not understood"


class Unprocessable(RequestError):
    """Well-formed, but the values make no sense; `fields["errors"]` names each."""

    status = 422
    code = "unprocessable"
    title = "The request has invalid values"


class UnknownAgent(RequestError):
    """The seed's 501: no agent of that name is registered."""

    status = 501
    code = "unknown_agent"
    title = "No such agent"


class UnknownModel(RequestError):
    """The model server answered that it does not have this model."""

    status = 404
    code = "model_not_found"
    title = "No such model"


class ModelRefused(RequestError):
    """The model server understood and refused (4xx): the host is well, the request is not."""

    status = 400
    code = "model_refused"
    title = "The model server refused the request"


class PromptTooLong(ModelRefused):
    """What was to be read whole is longer than the model's window."""

    code = "context_length_exceeded"
    title = "The text is longer than the model's window"


class RetryLater(LambentError):
    """Nothing is wrong with the request; the same one may succeed in `retry_after_s` seconds."""

    status = 503
    code = "unavailable"
    title = "Temporarily unavailable"

    def __init__(
        self,
        detail: str = "",
        *,
        retry_after_s: float = 1.0,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail, fields=fields)
        self.retry_after_s = retry_after_s


class RateLimited(RetryLater):
    """The client's limit is used up."""

    status = 429
    code = "rate_limited"
    title = "Too many requests"


class BudgetExceeded(RetryLater):
    """A hard budget is used up; `fields["budget"]` says which, `retry_after_s` ends its period."""

    status = 429
    code = "budget_exceeded"
    title = "The budget is used up"


class Unavailable(RetryLater):
    """A part that the answer needs is not there now."""


class StoreUnavailable(Unavailable):
    """Postgres or MongoDB does not answer."""

    code = "store_unavailable"
    title = "A data store does not answer"


class NotSetUp(StoreUnavailable):
    """The store answers, but lacks the tables or functions that this version of the code asks."""

    code = "not_set_up"
    title = "The platform is not set up"


class BreakerOpen(Unavailable):
    """The shared breaker in front of the model host is open."""

    code = "breaker_open"
    title = "The model server is failing; calls to it are paused"


class NoSlot(Unavailable):
    """All model slots are taken.

    `fields` hold `position`, the place in the queue, and `estimated_wait_s`.
    """

    code = "no_slot"
    title = "All model slots are taken"


class ModelBusy(Unavailable):
    """Ollama's own queue is full (its 503). Not a failure to the breaker."""

    code = "model_busy"
    title = "The model server's queue is full"


class ModelUnavailable(Unavailable):
    """Connect error, timeout, 5xx or a broken stream: what the breaker counts as a failure."""

    code = "model_unavailable"
    title = "The model server does not answer"


class ModelTimeout(ModelUnavailable):
    """No connection, no first token or no next token within its limit."""

    code = "model_timeout"
    title = "The model server took too long"


class WorkflowError(LambentError):
    """What an author's workflow raises or is told; ends up on the run."""

    code = "workflow"
    title = "The workflow failed"


class NonRetryable(WorkflowError):
    """Raised by an author inside a step: trying it again will not help."""

    code = "non_retryable"
    title = "The step failed for good"


class RetryAfter(WorkflowError):
    """Raised by an author inside a step: try it again, but not before `seconds` have passed."""

    code = "retry_after"
    title = "The step wants to be tried again later"

    def __init__(self, seconds: float, detail: str = "") -> None:
        super().__init__(detail)
        self.seconds = float(seconds)
        if not math.isfinite(self.seconds):
            raise ValueError(f"RetryAfter({seconds}) names no time")


class StepFailed(WorkflowError):
    """A step failed for good; the same error at its first run and at each replay.

    `step` is the key of its checkpoint, `type` the class name of what the author's function
    raised, `attempts` how often it was tried.
    """

    code = "step_failed"
    title = "A step failed"

    def __init__(self, detail: str, *, step: str = "", type: str = "", attempts: int = 1) -> None:
        super().__init__(detail, fields={"step": step, "type": type, "attempts": attempts})
        self.step = step
        self.type = type
        self.attempts = attempts


class StepTimedOut(StepFailed):
    """A step took longer than its `timeout` at its last attempt."""

    code = "step_timed_out"
    title = "A step took too long"


class Interrupted(StepFailed):
    """An `at_most_once` step was begun and never heard of again: its effect is unknown."""

    code = "interrupted"
    title = "A step was interrupted and must not be run again"


class WaitTimedOut(StepFailed):
    """No event, answer or condition came before the deadline of the wait."""

    code = "wait_timed_out"
    title = "A wait timed out"


class CallbackFailed(StepFailed):
    """Whoever held the callback reported a failure."""

    code = "callback_failed"
    title = "A callback was failed by its holder"


class ChildFailed(StepFailed):
    """A child run ended as failed or cancelled; `type` says which."""

    code = "child_failed"
    title = "A child run did not complete"


class ConcurrentSteps(WorkflowError):
    """Two steps of one branch at once: their order, and so their keys, would be chance."""

    code = "concurrent_steps"
    title = "Steps may run side by side only inside step.gather or step.map"


class Unserialisable(WorkflowError):
    """A value cannot be kept and read back as it was."""

    code = "unserialisable"
    title = "This value cannot be kept"


class Unwind(BaseException):
    """Unwinds a slice through the author's code.

    Derived from BaseException, so that an author's `except Exception` cannot swallow it.
    """


class Suspended(Unwind):
    """The run is settled; it goes on in a later slice."""


class Stopped(Unwind):
    """This environment has no time left; the run goes on elsewhere at once."""


class Cancelled(Unwind):
    """The run is being cancelled, or was failed: nothing new begins."""


class Paused(Unwind):
    """Someone paused the run: what is under way was let finish, nothing new begins."""


class Abandoned(Unwind):
    """A sibling branch failed: this one is given up."""


class LeaseLost(Unwind):
    """Someone else may own the run now: write nothing more to it."""


class NonDeterministic(Unwind):
    """The code asks for other steps than those on record; nothing was overwritten."""


class OverBudget(Unwind):
    """The run has spent its budget; it is parked until someone raises it."""


class ContinuedAsNew(Unwind):
    """The author asked for a fresh start with `input`."""

    def __init__(self, input: Any) -> None:
        super().__init__()
        self.input = input
