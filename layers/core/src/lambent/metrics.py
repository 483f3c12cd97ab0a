"""Counts and times what operators watch, and writes it as EMF lines through Powertools.

To record costs a list's append; the line is written once an invocation, after its answer. The one
dimension is `stack`: whatever a caller could make up (a model, a path, an id) is none.
"""

from __future__ import annotations

from collections import deque
from enum import StrEnum
from typing import Final, assert_never

NAMESPACE: Final = "Lambent"
DIMENSION: Final = "stack"
# Values of one metric that are kept until they are written; who never writes must not grow.
_KEPT: Final = 1000


class Kind(StrEnum):
    """How the values of one invocation become what is written."""

    COUNT = "Count"  # summed
    MILLISECONDS = "Milliseconds"  # each one: CloudWatch makes percentiles of them
    SECONDS = "Seconds"  # the largest


class Metric(StrEnum):
    """Every metric of the platform, by its name in CloudWatch."""

    REQUESTS = "Requests"
    REQUESTS_REFUSED = "RequestsRefused"  # 4xx and 501: the caller's
    REQUESTS_UNAVAILABLE = "RequestsUnavailable"  # 503: later
    REQUESTS_FAILED = "RequestsFailed"  # ours
    # The same of one function: a deploy goes back by it.
    CHAT_FAILED = "ChatRequestsFailed"
    GATEWAY_FAILED = "GatewayRequestsFailed"
    STREAMS_BROKEN = "StreamsBroken"  # an answer that ended in the middle
    TIME_TO_FIRST = "TimeToFirstTokenMs"  # from the request's admission on
    ADMISSION_TIME = "AdmissionMs"
    MODEL_TIME = "ModelMs"
    PROMPT_TOKENS = "PromptTokens"
    COMPLETION_TOKENS = "CompletionTokens"
    BUDGETS_PASSED = "BudgetsPassed"  # soft ones and hard ones, each once a period
    BREAKER_OPENED = "BreakerOpened"
    BREAKER_PROBES = "BreakerProbes"
    BREAKER_CLOSED = "BreakerClosed"
    RUNS_STARTED = "RunsStarted"
    RUNS_COMPLETED = "RunsCompleted"
    RUNS_FAILED = "RunsFailed"
    RUNS_CANCELLED = "RunsCancelled"
    RUNS_BLOCKED = "RunsBlocked"
    STEP_TIME = "StepMs"
    STEP_RETRIES = "StepRetries"
    SLICES_WITHOUT_PROGRESS = "SlicesWithoutProgress"
    DUE_LAG = "DueLagSeconds"
    DELIVERY_ATTEMPTS = "DeliveryAttempts"
    DELIVERIES_DEAD_LETTERED = "DeliveriesDeadLettered"

    @property
    def kind(self) -> Kind:
        if self.value.endswith("Ms"):
            return Kind.MILLISECONDS
        return Kind.SECONDS if self.value.endswith("Seconds") else Kind.COUNT


class Recorder:
    """What was recorded since the last line; one for each environment."""

    def __init__(self) -> None:
        self.stack = "lambent"
        self._values: dict[Metric, deque[float]] = {}

    def note(self, metric: Metric, value: float = 1.0) -> None:
        """Note one value."""
        kept = self._values.get(metric)
        if kept is None:
            self._values[metric] = deque([value], maxlen=_KEPT)
        elif metric.kind is Kind.MILLISECONDS:
            kept.append(value)
        else:
            kept[0] = kept[0] + value if metric.kind is Kind.COUNT else max(kept[0], value)

    def flush(self) -> None:
        """Write what was recorded to the standard output; nothing where there is nothing."""
        if not self._values:
            return
        from aws_lambda_powertools.metrics import MetricUnit
        from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import (
            AmazonCloudWatchEMFProvider,
        )

        values, self._values = self._values, {}
        # One of its own each time: Powertools' usual one is shared by all that ever make one.
        provider = AmazonCloudWatchEMFProvider(
            namespace=NAMESPACE, service="", default_dimensions={DIMENSION: self.stack}
        )
        for metric, kept in values.items():
            match metric.kind:
                case Kind.COUNT:
                    unit = MetricUnit.Count
                case Kind.MILLISECONDS:
                    unit = MetricUnit.Milliseconds
                case Kind.SECONDS:
                    unit = MetricUnit.Seconds
                case never:
                    assert_never(never)
            for value in kept:
                provider.add_metric(metric.value, unit=unit, value=value)
        if provider.metric_set:  # with a hundred values Powertools has written them by itself
            provider.flush_metrics()


_RECORDER: Final = Recorder()


def note(metric: Metric, value: float = 1.0) -> None:
    """Note one value; it is written when the invocation ends."""
    _RECORDER.note(metric, value)


def flush() -> None:
    """Write what this environment has recorded."""
    _RECORDER.flush()


def name_stack(stack: str) -> None:
    """Whose metrics these are."""
    _RECORDER.stack = stack
