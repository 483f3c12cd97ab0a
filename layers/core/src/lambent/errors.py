"""Every error the platform raises on purpose, sorted by what the caller has to do about it."""

from __future__ import annotations

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
    """No key, or one that is unknown, revoked or expired."""

    status = 401
    code = "unauthenticated"
    title = "A valid API key is required"


class Forbidden(RequestError):
    """The key is good, but its scopes do not reach this."""

    status = 403
    code = "forbidden"
    title = "This key may not do that"


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


class Unavailable(RetryLater):
    """A part that the answer needs is not there now."""


class StoreUnavailable(Unavailable):
    """Postgres or MongoDB does not answer."""

    code = "store_unavailable"
    title = "A data store does not answer"


class BreakerOpen(Unavailable):
    """The shared breaker in front of the model host is open."""

    code = "breaker_open"
    title = "The model server is failing; calls to it are paused"


class NoSlot(Unavailable):
    """All model slots are taken; `fields["position"]` is the place in the queue."""

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


class Unwind(BaseException):
    """Unwinds a slice through the author's code.

    Derived from BaseException, so that an author's `except Exception` cannot swallow it.
    """
