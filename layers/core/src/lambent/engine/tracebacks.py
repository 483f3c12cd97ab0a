"""Words a traceback for operators: where the author's code was, bounded, without secrets."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import lambent
from lambent.telemetry import redact

_OURS: Final = str(Path(lambent.__file__).parent) + os.sep
_MACHINERY: Final = ("/asyncio/", "/concurrent/futures/", "/contextlib.py")
_MOST_FRAMES: Final = 12
_MOST_CAUSES: Final = 3
_LONGEST: Final = 5_000


def traceback_of(error: BaseException, *, words: bool = True) -> str:
    """The frames that raised it, the innermost last, after those of what it was raised from, with
    the words of these: its own stand beside it.

    Frames of the platform are left out while there are others, paths begin below `sys.path`.
    `words` False: what the errors say is left out, and so is the code (the step is redacted).
    """
    told = list(_causes(error))
    parts: list[str] = []
    for place, one in enumerate(told):
        parts.extend(_frames(one, code=words))
        if place < len(told) - 1:
            said = f": {one}" if words and str(one) else ""
            parts.append(f"{type(one).__name__}{said[:500]}\n\nwhich led to\n")
    text = redact("\n".join(parts))
    return text if len(text) <= _LONGEST else f"…{text[-_LONGEST:]}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    chain = [error]
    while len(chain) < _MOST_CAUSES:
        last = chain[-1]
        cause = last.__cause__ or (None if last.__suppress_context__ else last.__context__)
        if cause is None or cause in chain:
            break
        chain.append(cause)
    return reversed(chain)


def _frames(error: BaseException, *, code: bool) -> Iterator[str]:
    found = traceback.extract_tb(error.__traceback__)
    theirs = [one for one in found if not _is_machinery(one.filename)]
    for frame in (theirs or found[-2:])[-_MOST_FRAMES:]:
        yield f'  File "{_short(frame.filename)}", line {frame.lineno}, in {frame.name}'
        if code and frame.line:
            yield f"    {frame.line}"


def _is_machinery(name: str) -> bool:
    return name.startswith(_OURS) or any(part in name for part in _MACHINERY)


def _short(name: str) -> str:
    above = [root for root in sys.path if root and name.startswith(root.rstrip(os.sep) + os.sep)]
    return os.path.relpath(name, max(above, key=len)) if above else os.path.basename(name)
