"""Answers CloudFormation for the setup function: create, update and delete of the stores, and a
digest of the settings.

Rollback safe: creating and updating are the same idempotent act, expand-only, so going back to
the code before needs no undoing; the physical id never changes, so no update ends in a delete;
an admin key that is there is left alone, so another stack's stays good whatever becomes of this
one; and a delete keeps the data unless the stack was told otherwise.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import urllib.request
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, assert_never

from lambent.first_aid import explain
from lambent.ids import random_base62
from lambent.telemetry import log_fields, logger

Run = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]

_SETTINGS: Final = "Custom::LambentSettings"
_ANSWER_TIMEOUT_S: Final = 10.0
_ANSWER_ATTEMPTS: Final = 4
_SECRET_LENGTH: Final = 43
_NOT_OURS: Final = (
    "These stores had an admin key that this stack did not make, and it was left as it is: use "
    'that one, or replace it as the README says under "The admin key".'
)


class RequestType(StrEnum):
    """What CloudFormation asks of a custom resource."""

    CREATE = "Create"
    UPDATE = "Update"
    DELETE = "Delete"


@dataclass(frozen=True, slots=True)
class Request:
    """One event of CloudFormation, as far as we read it."""

    type: RequestType
    stack_id: str
    request_id: str
    logical_id: str
    answer_url: str
    asks_for_digest: bool
    admin_key_secret: str
    reserved_steps: int
    deletes_data: bool

    @property
    def physical_id(self) -> str:
        """The same for the life of the stack: a changed one would mean "delete the old"."""
        suffix = "settings" if self.asks_for_digest else "stores"
        return f"{self.stack_id.split('/')[1]}-{suffix}"


def is_from_cloudformation(event: Mapping[str, Any]) -> bool:
    """Whether the event is a custom resource's; others come from people and local tools."""
    return "RequestType" in event and "ResponseURL" in event


def parse(event: Mapping[str, Any]) -> Request:
    """The event's fields; KeyError or ValueError for what is no event of CloudFormation."""
    properties = event["ResourceProperties"]
    return Request(
        type=RequestType(event["RequestType"]),
        stack_id=event["StackId"],
        request_id=event["RequestId"],
        logical_id=event["LogicalResourceId"],
        answer_url=event["ResponseURL"],
        asks_for_digest=event["ResourceType"] == _SETTINGS,
        admin_key_secret=properties.get("AdminKeySecret", ""),
        reserved_steps=int(properties.get("StepReservedConcurrency", 0)),
        deletes_data=properties.get("DataOnDelete") == "delete",
    )


def digest(properties: Mapping[str, Any]) -> str:
    """Changes with any of the values and tells none of them.

    From the values alone: a rollback has to find the digest of before, or CloudFormation would
    publish functions that have not changed, which Lambda refuses.
    """
    return hashlib.sha256(json.dumps(properties["Values"]).encode()).hexdigest()[:16]


async def serve(
    event: Mapping[str, Any],
    run: Run,
    *,
    deadline_s: float = 200.0,
) -> dict[str, Any]:
    """Do what CloudFormation asks with `run`, and tell it how that went; never raises for `run`.

    `run` is given `{"action": "setup" | "delete"}`, `admin_secret` where this call made one,
    `makes_admin_key` where it is to say only whether there is one and who made the stores,
    `replaces_admin_key` where it is not to, as `maker` the stack, where data is made or deleted,
    and as `reserved_steps` what is reserved for the step function.
    Without an answer CloudFormation would wait for its whole service timeout.
    """
    request = parse(event)
    if request.asks_for_digest:
        # Reaches for no store and reads no setting: a wrong one is for the stores' answer to say.
        answer = _answer(request, "SUCCESS", "", Digest=digest(event["ResourceProperties"]))
        await asyncio.to_thread(_send, request.answer_url, answer)
        return answer
    try:
        async with asyncio.timeout(deadline_s):
            said = await _carry_out(request, run)
    except Exception as error:  # the edge: whatever went wrong, the stack must hear of it
        logger().exception("Setup failed", **log_fields(request_type=request.type))
        answer = _answer(request, "FAILED", explain(error))
    else:
        answer = _answer(request, "SUCCESS", said)
    await asyncio.to_thread(_send, request.answer_url, answer)
    return answer


async def _carry_out(request: Request, run: Run) -> str:
    """What there is to say about a success: nothing, mostly."""
    match request.type:
        case RequestType.CREATE | RequestType.UPDATE:
            return await _set_up(request, run)
        case RequestType.DELETE:
            # Also what follows a failed create: with data to keep, no store need be reached.
            if request.deletes_data:
                done = await run({"action": "delete", "maker": request.stack_id})
                if not done["deleted"]:
                    return "The data was kept: this stack did not make it."
        case _:
            assert_never(request.type)
    return ""


async def _set_up(request: Request, run: Run) -> str:
    asked = {
        "action": "setup",
        "maker": request.stack_id,
        "reserved_steps": request.reserved_steps,
    }
    if not request.admin_key_secret:
        await run(asked)
        return ""
    found = await run({**asked, "makes_admin_key": False})
    if found["has_admin_key"]:
        return await _leave_key(request, maker=found["maker"])
    secret = random_base62(_SECRET_LENGTH)
    # Kept before it is made good: a key in Postgres whose text nobody has would lock everyone
    # out, a text without its key is replaced by the next attempt.
    await _put(request, f"lam_admin_{secret}")
    # Never in place of another: someone else may have made one since.
    made = await run({**asked, "admin_secret": secret, "replaces_admin_key": False})
    return "" if made["admin_key"] else await _leave_key(request, maker=None)


async def _leave_key(request: Request, *, maker: str | None) -> str:
    """A key that is there is good to somebody, and stays so whatever becomes of this stack."""
    if maker == request.stack_id:
        return ""
    if request.type is RequestType.CREATE:  # later the secret may hold what an operator has put
        await _put(request, _NOT_OURS)
    return _NOT_OURS


async def _put(request: Request, text: str) -> None:
    await asyncio.to_thread(_put_secret, request.admin_key_secret, text)


def _answer(request: Request, status: str, reason: str, **data: str) -> dict[str, Any]:
    return {
        "Status": status,
        "Reason": reason or "Done",
        "PhysicalResourceId": request.physical_id,
        "StackId": request.stack_id,
        "RequestId": request.request_id,
        "LogicalResourceId": request.logical_id,
        "Data": data,
    }


def _send(url: str, answer: Mapping[str, Any]) -> None:
    """PUT to the address that CloudFormation signed. Standard library: it is one request."""
    body = json.dumps(answer).encode()
    for attempt in range(1, _ANSWER_ATTEMPTS + 1):
        # An empty content type: the signature covers it.
        request = urllib.request.Request(url, data=body, method="PUT", headers={"Content-Type": ""})
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_TIMEOUT_S):
                return
        except OSError:
            if attempt == _ANSWER_ATTEMPTS:
                raise


def _put_secret(arn: str, text: str) -> None:
    import boto3

    boto3.client("secretsmanager").put_secret_value(SecretId=arn, SecretString=text)
