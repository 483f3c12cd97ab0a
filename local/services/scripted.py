"""A scripted Ollama for tests and benches."""

from types import TracebackType
from typing import Self


class ScriptedModel:
    @classmethod
    def start(cls) -> Self:
        return cls()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        return None
