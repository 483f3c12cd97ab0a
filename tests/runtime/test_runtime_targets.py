"""What the suite does where the runtime interface emulator is not installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.process import ROOT

STORY = "tests/runtime/test_runtime_conformance.py::test_an_application_answers[rie]"


@pytest.fixture
def bare_tree(tmp_path: Path) -> Path:
    """A copy of what the suite is made of, with nothing installed beside it."""
    caches = shutil.ignore_patterns("__pycache__")
    for name in ("tests/runtime", "local", "layers/runtime"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=caches)
    for name in ("pyproject.toml", "tests/conftest.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(("ci", "outcome"), [("false", "SKIPPED"), ("true", "FAILED")])
def test_without_rie_a_laptop_skips_and_ci_fails(bare_tree: Path, ci: str, outcome: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-rfs", "-p", "no:cacheprovider", STORY],
        cwd=bare_tree,
        env={"PATH": os.devnull, "HOME": str(bare_tree), "CI": ci},
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome in ended.stdout, ended.stdout + ended.stderr
