"""Names steps by where they stand in the code, not by when they happen to run."""

from __future__ import annotations

from collections.abc import Iterator
from contextvars import ContextVar
from typing import Final

from lambent.errors import ConcurrentSteps, WorkflowError

_LONGEST_NAME: Final = 256


class Branch:
    """One line of execution: the workflow itself, or one of a gather or map.

    Key = branch path + name + occurrence. The occurrence is counted within the branch: across
    branches it would be the order of scheduling.
    """

    def __init__(self, path: str = "", parent: Branch | None = None) -> None:
        self.path = path
        self.parent = parent
        self.abandoned = False
        # By name: what its keys begin with, and how many there are.
        self._named: dict[str, tuple[str, int]] = {}
        self.busy: str | None = None  # the key of the step that goes on
        self.entered = 0  # steps so far
        self.lines = 0  # lines logged since the last of them

    def enter(self, name: str) -> str:
        """The key of the step that begins; raises `ConcurrentSteps` if another goes on."""
        if self.busy is not None:
            raise ConcurrentSteps(
                f"Step {name!r} was begun while {self.busy!r} of the same branch was going on. "
                "Steps may run side by side only inside step.gather or step.map."
            )
        key = self.key(name)
        self.busy = key
        self.entered += 1
        self.lines = 0
        return key

    def leave(self) -> None:
        self.busy = None

    def key(self, name: str) -> str:
        """The next key under this name in this branch."""
        if (known := self._named.get(name)) is not None:
            first, count = known[0], known[1] + 1
            self._named[name] = first, count
            return f"{first}#{count}"
        if not name or len(name) > _LONGEST_NAME:
            raise WorkflowError(
                f"A step's name has 1 to {_LONGEST_NAME} characters: {name[:40]!r}."
            )
        own = "".join(f"%{ord(c):02X}" if c in "/#[]%" or c < " " else c for c in name)
        first = f"{self.path}/{own}" if self.path else own
        self._named[name] = first, 1
        return first

    def given_up(self) -> bool:
        """Whether this branch, or one around it, was abandoned."""
        branch: Branch | None = self
        while branch is not None:
            if branch.abandoned:
                return True
            branch = branch.parent
        return False

    def within(self, other: Branch) -> bool:
        """Whether this is `other` or a branch inside it."""
        branch: Branch | None = self
        while branch is not None and branch is not other:
            branch = branch.parent
        return branch is other


def enclosing(path: str) -> Iterator[str]:
    """The paths around a key or a branch, to the root's, which is empty."""
    while path:
        path = path.rpartition("/")[0]
        yield path


CURRENT: Final[ContextVar[Branch]] = ContextVar("lambent_branch")
