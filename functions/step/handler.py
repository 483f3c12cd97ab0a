"""The step function: advances a batch of runs, each by a slice."""

from typing import Any

from lambda_stream import on_shutdown
from lambent.app import advance_runs, stop_runs


async def handler(event: dict[str, Any], context: Any) -> dict[str, int]:
    """`{"runs": [id, ...], "early"?: true}` → how many of them were advanced."""
    run_ids = [str(one) for one in event.get("runs", ())]
    left_s = context.get_remaining_time_in_millis() / 1000
    early = event.get("early") is True
    invocation = context.aws_request_id
    advanced = await advance_runs(run_ids, left_s=left_s, early=early, invocation=invocation)
    return {"advanced": advanced}


# About 300 ms are left then: every slice settles at once instead of leaving its lease to lapse.
on_shutdown(stop_runs)
