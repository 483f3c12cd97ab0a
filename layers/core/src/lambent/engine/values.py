"""Puts values where they fit: into the document that they belong to, or into chunks beside it."""

from __future__ import annotations

import secrets
from datetime import timedelta
from typing import Any

import bson

from lambent.clock import Clock
from lambent.codec import TAG, Encoded, decode, encode
from lambent.due import Database
from lambent.engine.config import EngineConfig
from lambent.engine.model import CHUNKS, ENDED_IN, RUNS
from lambent.errors import Unserialisable
from lambent.mongo import Document, guarded

_CHUNKED = "chunks"
_DOCUMENT_BYTES = 8 * 1024 * 1024  # what values may take of the 16 MB of a document


class Values:
    """Stores and fetches values; a big one becomes `{"~": "chunks", ...}` and chunk documents."""

    def __init__(self, mongo: Database, config: EngineConfig, *, clock: Clock) -> None:
        self._mongo = mongo
        self._clock = clock
        self._config = config
        self._given: set[str] = set()  # runs that got chunks since `given_to` was asked of them

    async def ensure_indexes(self) -> None:
        chunks = self._mongo.db[CHUNKS]
        await guarded(chunks.create_index([("set", 1)]))
        await guarded(chunks.create_index([("run", 1)]))
        await guarded(chunks.create_index("expire_at", expireAfterSeconds=0))

    async def store(self, run: str, value: Any, *, what: str) -> Any:
        """The form to put into a document. Raises `Unserialisable`, also past the size limit, which
        begins with `what` the value is."""
        try:
            return await self.place(run, encode(value))
        except Unserialisable as error:
            raise Unserialisable(f"{what} cannot be kept: {error.detail}") from None

    async def place(self, run: str, encoded: Encoded, *, share: int = 1) -> Any:
        """The same for a value that is encoded already; most cost nothing here. `share`: how many
        such values go into one document."""
        over_bytes = min(self._config.chunk_over_bytes, _DOCUMENT_BYTES // share)
        if encoded.size_bytes * 2 <= over_bytes:
            return encoded.form
        data = bson.encode({"v": encoded.form})
        if len(data) <= over_bytes:
            return encoded.form
        if len(data) > self._config.largest_value_bytes:
            raise Unserialisable(
                f"the value takes {len(data)} bytes; the limit is "
                f"{self._config.largest_value_bytes}."
            )
        # A name of its own for each try: two slices that race must not mix their pieces.
        name = f"{run}/{secrets.token_hex(8)}"
        size = self._config.chunk_bytes
        pieces: list[Document] = [
            {"_id": f"{name}/{n}", "set": name, "n": n, "run": run, "data": data[at : at + size]}
            for n, at in enumerate(range(0, len(data), size))
        ]
        # On the run first, so that what ends it knows to set their expiry, then the chunks, and
        # only then the document that points at them: a record never misses its value.
        fleeting: Document = {}
        if await self._note(run):
            self._given.add(run)
        else:
            # An input, of a run that is inserted next: should that not come, they go by themselves.
            stay_s = self._config.retention_s + self._config.leftovers_s
            fleeting["expire_at"] = self._clock.now() + timedelta(seconds=stay_s)
        for piece in pieces:
            await guarded(self._mongo.db[CHUNKS].insert_one({**piece, **fleeting}))
        return {TAG: _CHUNKED, "v": {"set": name, "count": len(pieces), "bytes": len(data)}}

    async def move(self, form: Any, run: str) -> None:
        """Give the chunks of an input, if it has any, to another run, to expire with that one, or
        by themselves until that takes them."""
        if is_chunked(form):
            await self._note(run)
            change = {"$set": {"run": run}}
            await guarded(self._mongo.db[CHUNKS].update_many({"set": form["v"]["set"]}, change))

    async def take(self, form: Any) -> None:
        """Once the run is there whose input this is: its chunks do not go by themselves."""
        for one in form if isinstance(form, list) else [form]:
            if is_chunked(one):
                # Not what its end has set: then whoever takes it here is late.
                kept: Document = {"set": one["v"]["set"], ENDED_IN: None}
                change = {"$unset": {"expire_at": ""}}
                await guarded(self._mongo.db[CHUNKS].update_many(kept, change))

    async def discard(self, form: Any) -> None:
        """Remove the chunks of a value that no document points at."""
        if is_chunked(form):
            await guarded(self._mongo.db[CHUNKS].delete_many({"set": form["v"]["set"]}))

    def given_to(self, run: str) -> bool:
        """Whether the run got chunks since this was asked last: what was read of it before does
        not say so."""
        given = run in self._given
        self._given.discard(run)
        return given

    async def _note(self, run: str) -> bool:
        runs = self._mongo.db[RUNS.collection]
        noted = await guarded(runs.update_one({"_id": run}, {"$addToSet": {"left": CHUNKS}}))
        return noted.matched_count == 1

    async def form(self, form: Any) -> Any:
        """The stored form itself, put together again if it, or an item of it, lies in chunks."""
        if at_hand(form):
            return form
        if isinstance(form, list):
            return [await self.form(item) for item in form]  # the inputs of a batch
        wanted = form["v"]
        found = self._mongo.db[CHUNKS].find({"set": wanted["set"]})
        pieces = sorted(await guarded(found.to_list()), key=lambda piece: int(piece["n"]))
        if len(pieces) != wanted["count"]:
            raise Unserialisable(f"{wanted['count'] - len(pieces)} chunks of the value are gone.")
        return bson.decode(b"".join(piece["data"] for piece in pieces))["v"]

    async def fetch(self, form: Any) -> Any:
        """The value that a stored form stands for."""
        return decode(await self.form(form))


def at_hand(form: Any) -> bool:
    """Whether `decode` alone gives the value: nothing of it lies in chunks."""
    if isinstance(form, dict):
        return form.get(TAG) != _CHUNKED
    return not (isinstance(form, list) and any(map(is_chunked, form)))


def is_chunked(form: Any) -> bool:
    return isinstance(form, dict) and form.get(TAG) == _CHUNKED
