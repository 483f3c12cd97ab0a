"""Saving a file restarts its function, and only that."""

import asyncio
import os
from pathlib import Path

import pytest

from tests.unit.emulator_toys import Toys, eventually, gone

WHO = """
import os, time
def handler(event, context):
    time.sleep(event.get("for_s", 0))
    return ["old", os.getpid()]
"""


@pytest.fixture
def toys(tmp_path: Path) -> Toys:
    return Toys(tmp_path).add("one", WHO).add("two", WHO)


async def test_a_saved_file_restarts_its_function(toys: Toys) -> None:
    async with toys.run() as emulator:
        emulator.watch_files()
        _, one = await emulator.invoke("one", {})
        _, two = await emulator.invoke("two", {})
        handler = toys.folder / "functions" / "one" / "handler.py"
        stamp = handler.stat().st_mtime_ns
        handler.write_text(WHO.replace("old", "renewed"))
        os.utime(handler, ns=(stamp, stamp + 2_000_000_000))  # or the .pyc would pass as current
        await eventually(lambda: gone(one))
        assert (await emulator.invoke("one", {}))[0] == "renewed"
        assert (await emulator.invoke("two", {}))[1] == two
    assert "handler.py changed: restarting" in toys.log("one")


async def test_what_ran_starts_again_at_once_and_a_person_is_told(toys: Toys) -> None:
    async with toys.run() as emulator:
        told: list[str] = []
        emulator.watch_files(told.append)
        _, one = await emulator.invoke("one", {})
        (toys.folder / "functions" / "one" / "handler.py").write_text("def broken(")
        await eventually(lambda: "UserCodeSyntaxError" in toys.log("one"))
        assert gone(one)
        assert told == ["handler.py changed: restarting one"]


async def test_a_busy_function_finishes_before_it_restarts(toys: Toys) -> None:
    async with toys.run() as emulator:
        _, first = await emulator.invoke("one", {})
        call = asyncio.create_task(emulator.invoke("one", {"for_s": 0.5}))
        await eventually(lambda: toys.log("one").count("START") == 2)
        emulator.pools["one"].recycle()
        assert (await call)[1] == first
        await eventually(lambda: gone(first))
        assert (await emulator.invoke("one", {}))[1] != first
