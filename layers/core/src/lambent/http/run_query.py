"""Which runs a request asks for, by its query: the words are the same wherever runs are found."""

from __future__ import annotations

from typing import Final

from pydantic import AwareDatetime, BaseModel, Field

from lambent.engine.listing import RunFilter, StatusAsked

GOING_ON: Final = "`going_on`: pending, running, waiting, paused or blocked."


class FilterQuery(BaseModel):
    """Runs in any state."""

    workflow: str | None = Field(default=None, max_length=100)
    version: int | None = Field(default=None, ge=1, description="Of the workflow.")
    client: str | None = Field(default=None, max_length=100, description="For admins.")
    parent: str | None = Field(default=None, max_length=64)
    created_from: AwareDatetime | None = None
    created_to: AwareDatetime | None = None

    def filter(self, client: str | None) -> RunFilter:
        """`client`: whose runs may be seen; None is everybody's."""
        asked = self.model_dump(exclude={"cursor", "limit", "client"})
        return RunFilter(client=client or self.client, **asked)


class ListQuery(FilterQuery):
    """A page of them, in one state or in any."""

    status: StatusAsked | None = Field(default=None, description=GOING_ON)
    cursor: str | None = Field(default=None, max_length=200)
    limit: int = Field(default=50, ge=1, le=200)
