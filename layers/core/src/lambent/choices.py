"""What settings may be one of."""

from __future__ import annotations

from enum import StrEnum


class Overflow(StrEnum):
    """What becomes of a conversation's oldest exchanges once they no longer fit."""

    DROP = "drop"
    SUMMARISE = "summarise"


class Titles(StrEnum):
    """Where a conversation's title is from, unless a person gives one."""

    WORDS = "words"
    MODEL = "model"
