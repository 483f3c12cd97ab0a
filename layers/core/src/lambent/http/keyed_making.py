"""`KeyedMaking`: `Idempotency-Key` on a route that makes, or does, one small thing."""

# No postponed annotations here: FastAPI has to see the dependency made inside the function.

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final

from fastapi import Header, Request, Response
from pydantic import BaseModel
from pydantic_core import to_json

from lambent.chat.idempotency import IdempotencyKeys, KeptAnswer, KeyRecord, quietly
from lambent.errors import LambentError, Unavailable, Unprocessable, revived
from lambent.http.audited import note_audit
from lambent.http.key_header import KeyReused, checked_key
from lambent.http.problems import as_lambent

CREATED: Final = 201
ACCEPTED: Final = 202
DONE: Final = 200
_JSON: Final = "application/json"
# Makes it, once for each token; None: no key was sent.
Make = Callable[[str | None], Awaitable[tuple[Any, Mapping[str, str]]]]


class KeyedMaking:
    """What one request makes, whose key, if it has one, stands for that for 24 hours.

    A token goes with the key, the same for whoever makes it after another one died over it: with
    that in what it writes, it is made once.
    """

    def __init__(self, keys: IdempotencyKeys, request: Request, key: str | None) -> None:
        self._keys = keys
        self._request = request
        self._path = request.url.path
        self._key = None if key is None else checked_key(key)

    async def made(
        self, client: str, asked: BaseModel | None, make: Make, *, status: int = CREATED
    ) -> Response:
        """The answer, of this request or of the first one with its key; `status` is its own.

        Raises what `make` raises, `KeyReused`, and `StoreUnavailable`.
        """
        if self._key is None:
            return self._response(_answer(status, *await make(None)))
        said = None if asked is None else asked.model_dump(mode="json")
        sent = json.dumps([self._path, said], sort_keys=True).encode()
        try:
            record, owned = await self._keys.settled(self._key, sent, client=client)
        except Unprocessable as error:
            raise KeyReused(error.detail) from None
        if owned:
            return self._response(await self._make(record, make, status))
        if record.answer is not None:
            return self._response(record.answer, replayed=True)
        if (kept := record.error) is not None:
            raise revived(kept.code, kept.detail, kept.fields, kept.retry_after_s)
        raise Unavailable("The first request with this Idempotency-Key failed.")

    def _response(self, answer: KeptAnswer, *, replayed: bool = False) -> Response:
        headers: dict[str, Any] = dict(answer.headers)
        if where := headers.get("location"):
            note_audit(self._request, target=where.rpartition("/")[2])
        if replayed:
            headers["idempotency-replayed"] = "true"
        return Response(answer.body, status_code=answer.status, headers=headers)

    async def _make(self, record: KeyRecord, make: Make, status: int) -> KeptAnswer:
        assert self._key is not None
        keeping = self._keys.keep(record)
        try:
            answer = _answer(status, *await make(record.turn))
        except Exception as error:
            failure, _ = as_lambent(error)
            # Its token stays where what was made may be there after all.
            goes_on = not isinstance(error, LambentError) or isinstance(failure, Unavailable)
            failed = self._keys.failed(record, failure, goes_on=goes_on)
            await quietly(failed, key=self._key)
            raise
        finally:
            keeping.cancel()
        # Before it is told: a crash in between must not let a retry be answered anew.
        await quietly(self._keys.answered(record, answer, goes_on=True), key=self._key)
        return answer


def keyed_making(keys: IdempotencyKeys) -> Callable[..., KeyedMaking]:
    """The dependency of a route that may be asked with a key. Raises `Unprocessable`."""

    def dependency(
        request: Request,
        idempotency_key: Annotated[
            str | None,
            Header(
                description="For 24 hours the same key with the same body brings the same answer, "
                "marked `Idempotency-Replayed: true`; another body under it is 422."
            ),
        ] = None,
    ) -> KeyedMaking:
        return KeyedMaking(keys, request, idempotency_key)

    return dependency


def _answer(status: int, made: Any, headers: Mapping[str, str]) -> KeptAnswer:
    body = to_json(made, by_alias=False, inf_nan_mode="null")
    return KeptAnswer(status, {"content-type": _JSON, **headers}, body)
