"""Holds the workflows of this deployment, by name and version."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from lambent.engine.model import Level
from lambent.engine.options import (
    Batch,
    Concurrency,
    Debounce,
    Flow,
    RateLimit,
    Retry,
    Singleton,
)
from lambent.errors import ConfigError, NotFound

WorkflowFunction = Callable[..., Awaitable[Any]]
F = TypeVar("F", bound=WorkflowFunction)

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """One version of a workflow: `fn(step, input)` and what its author said about it.

    `on`: event types that start it. `input`: a dataclass or pydantic model that says what the input
    looks like, for forms, descriptions and the check of what is sent; the function still gets that.
    `step_timeout_s` and `retry` hold for steps that say nothing.
    `internal`: only the platform starts it, because its input says what the run may do.
    """

    name: str
    version: int
    fn: WorkflowFunction
    on: tuple[str, ...] = ()
    retry: Retry = field(default_factory=Retry)
    step_timeout_s: float | None = None
    priority: Level = Level.NORMAL
    flow: Flow = field(default_factory=Flow)
    internal: bool = False
    input: Any = None


class Registry:
    """The workflows that this deployment can run."""

    def __init__(self, *, longest_step_s: float = 840.0) -> None:
        self._found: dict[str, dict[int, Workflow]] = {}
        self.longest_step_s = longest_step_s

    def add(self, workflow: Workflow) -> None:
        """Raises `ConfigError` that lists what is wrong, or that the version is there already."""
        problems = workflow.flow.problems()
        if not _NAME.fullmatch(workflow.name):
            problems.append("its name must be 1 to 100 of A-Z a-z 0-9 . _ -")
        if workflow.version < 1:
            problems.append("its version must be 1 or more")
        timeout_s = workflow.step_timeout_s
        if timeout_s is not None and not 0 < timeout_s <= self.longest_step_s:
            problems.append(
                f"its step timeout of {timeout_s:g} s is not within the function's "
                f"{self.longest_step_s:g} s"
            )
        versions = self._found.setdefault(workflow.name, {})
        there = versions.get(workflow.version)
        if there is not None and there.fn is not workflow.fn:
            problems.append(f"version {workflow.version} is registered already")
        if problems:
            raise ConfigError([f"Workflow {workflow.name!r}: {text}." for text in problems])
        versions[workflow.version] = workflow

    def get(self, name: str, version: int) -> Workflow | None:
        """That very version, or None: a run never moves to another one by itself."""
        return self._found.get(name, {}).get(version)

    def latest(self, name: str) -> Workflow:
        """The newest version; raises `NotFound` for an unknown name."""
        versions = self._found.get(name)
        if not versions:
            raise NotFound(f"There is no workflow {name!r}.")
        return versions[max(versions)]

    def named(self, name: str, version: int | None = None) -> Workflow:
        """That version, or the newest; raises `NotFound`."""
        if version is None:
            return self.latest(name)
        found = self.get(name, version)
        if found is None:
            raise NotFound(f"There is no version {version} of the workflow {name!r}.")
        return found

    def started_by(self, event_type: str) -> list[Workflow]:
        """The newest version of each workflow that names this event type."""
        newest = (versions[max(versions)] for versions in self._found.values())
        return [workflow for workflow in newest if event_type in workflow.on]

    def all(self) -> list[Workflow]:
        return [workflow for versions in self._found.values() for workflow in versions.values()]

    def workflow(
        self,
        name: str,
        *,
        version: int = 1,
        on: str | Sequence[str] = (),
        retry: Retry | None = None,
        step_timeout_s: float | None = None,
        priority: Level = Level.NORMAL,
        concurrency: Concurrency | None = None,
        rate_limit: RateLimit | None = None,
        debounce: Debounce | None = None,
        batch: Batch | None = None,
        singleton: Singleton | None = None,
        input: Any = None,
    ) -> Callable[[F], F]:
        """Register an async function `fn(step, input)` as this version of this workflow."""

        def register(fn: F) -> F:
            flow = Flow(
                concurrency=concurrency,
                rate_limit=rate_limit,
                debounce=debounce,
                batch=batch,
                singleton=singleton,
            )
            self.add(
                Workflow(
                    name=name,
                    version=version,
                    fn=fn,
                    on=(on,) if isinstance(on, str) else tuple(on),
                    retry=retry or Retry(),
                    step_timeout_s=step_timeout_s,
                    priority=priority,
                    flow=flow,
                    input=input,
                )
            )
            return fn

        return register


# What modules of authors register into when they are imported.
registry: Final = Registry()
workflow: Final = registry.workflow
