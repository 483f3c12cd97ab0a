"""The workflow that pulls a model onto a server: part after part, so that no crash loses much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from lambent.engine.options import Retry
from lambent.engine.registry import Workflow
from lambent.engine.step import Step
from lambent.errors import NonRetryable
from lambent.models.library import ModelLibrary, PullState

PULL: Final = "lambent.pull-model"
# Progress is told, and a crash costs at most, once in so long; a part takes up where one ended.
_PART_S: Final = 10.0
_MOST_PARTS: Final = 8_000


def pull_workflow(library: ModelLibrary, *, part_s: float = _PART_S) -> Workflow:
    """Its input is `{"model", "host"}`; internal, because a host has to be one of ours."""

    async def pull_model(step: Step, input: Mapping[str, str]) -> dict[str, Any]:
        """Pulls a model; started by POST /admin/models/pull only."""
        model, host = input["model"], input["host"]

        async def part() -> dict[str, Any]:
            return _told(await library.pull(model, host=host, within_s=part_s))

        sizes = dict.fromkeys(("completed_bytes", "total_bytes"), 0)
        for _ in range(_MOST_PARTS):
            state: dict[str, Any] = await step.do("pull", part, retry=Retry(attempts=8))
            # A part tells the layers that it came across.
            sizes = {name: max(size, state[name]) for name, size in sizes.items()}
            await step.progress({"model": model, "host": host, **state, **sizes})
            if state["done"]:
                return {"model": model, "host": host, "bytes": sizes["completed_bytes"]}
        raise NonRetryable("The pull takes far too long.")

    return Workflow(name=PULL, version=1, fn=pull_model, internal=True)


def _told(state: PullState) -> dict[str, Any]:
    return {
        "done": state.done,
        "status": state.status,
        "completed_bytes": state.completed_bytes,
        "total_bytes": state.total_bytes,
    }
