"""The data folder of a stack: what it keeps, and when it writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from local.state import DataFolder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DataFolder]:
    folder = DataFolder(tmp_path / "data")
    yield folder
    folder.close()


def test_ready_is_written_again_only_for_new_content(folder: DataFolder) -> None:
    ready = folder.path / "ready.json"
    folder.write_ready({"pids": {"step": [1]}})
    # Still open, so that no file written after it can get its number.
    with ready.open() as first:
        number = ready.stat().st_ino
        folder.write_ready({"pids": {"step": [1]}})
        assert ready.stat().st_ino == number
        folder.write_ready({"pids": {"step": [1, 2]}})
        assert ready.stat().st_ino != number
        assert first.read() != ready.read_text()


def test_ready_comes_back_after_it_was_removed(folder: DataFolder) -> None:
    folder.write_ready({"pids": {}})
    folder.remove_ready()
    folder.write_ready({"pids": {}})
    assert (folder.path / "ready.json").exists()
