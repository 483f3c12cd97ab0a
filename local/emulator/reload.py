"""Restarts a function when one of its files, or of its layers, is saved."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path

from watchfiles import Change, DefaultFilter, awatch

from local.emulator.template import Function

Batches = AsyncIterator[set[tuple[Change, str]]]


def affected(paths: Iterable[Path], functions: Iterable[Function]) -> list[Function]:
    """The functions whose code or layers hold one of the paths."""
    changed = list(paths)
    return [
        function
        for function in functions
        if any(
            path.is_relative_to(folder)
            for path in changed
            for folder in (function.code, *function.layers)
        )
    ]


def roots(functions: Iterable[Function]) -> list[Path]:
    return sorted({folder for f in functions for folder in (f.code, *f.layers)})


async def watch(
    functions: Mapping[str, Function],
    recycle: Callable[[list[Function], list[Path]], None],
    *,
    stop: asyncio.Event,
) -> None:
    """Call `recycle` with the functions concerned, until `stop` is set."""
    batches: Batches = awatch(
        *roots(functions.values()),
        stop_event=stop,
        watch_filter=_SourceFilter(),
        debounce=200,
        step=50,
        rust_timeout=500,
    )
    async for batch in batches:
        paths = [Path(path) for _, path in batch]
        if concerned := affected(paths, functions.values()):
            recycle(concerned, paths)


class _SourceFilter(DefaultFilter):
    """Everything a function may read, but not what Python or an editor writes beside it."""

    ignore_dirs = (*DefaultFilter.ignore_dirs, "__pycache__", ".lambent")
    ignore_entity_patterns = (*DefaultFilter.ignore_entity_patterns, r"\.pyc$", r"\.tmp$", r"~$")
