"""`Memory`: what agents remember for a client, found again by likeness of meaning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lambent.admission.statements import statement
from lambent.postgres import Postgres


@dataclass(frozen=True, slots=True)
class Remembered:
    """A text, and how like what was asked it is: the cosine of their vectors, at most 1."""

    content: str
    likeness: float


class Memory:
    """Every row belongs to a client, and to the model that made its vector.

    pgvector compares where the database has it, else plain SQL; both give the same answers.
    """

    def __init__(self, postgres: Postgres, *, vectors: bool | None = None) -> None:
        """`vectors` None: found out at the first use."""
        self._postgres = postgres
        self._vectors = vectors

    async def keep(
        self, client: str, content: str, *, id: str, model: str, embedding: Sequence[float]
    ) -> None:
        """Remember the text; the same id a second time changes nothing."""
        kept = {
            "id": id,
            "client": client,
            "model": model,
            "content": content.replace("\0", ""),
            "embedding": list(embedding),
        }
        await self._postgres.fetch(statement("memory_insert"), kept)

    async def recall(
        self, client: str, *, model: str, embedding: Sequence[float], limit: int
    ) -> list[Remembered]:
        """The client's texts that are most like the vector, the likest first."""
        if self._vectors is None:
            row = await self._postgres.fetch_one(statement("memory_has_vectors"))
            self._vectors = bool(row.found)
        name = "memory_recall_vectors" if self._vectors else "memory_recall_plain"
        asked = {"client": client, "model": model, "embedding": list(embedding), "limit": limit}
        rows = await self._postgres.fetch(statement(name), asked)
        return [Remembered(row.content, float(row.likeness or 0.0)) for row in rows]
