"""Finds AWS's runtime interface emulator; with CI=true it is installed where there is none."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

from local.aws import commands, sam
from tests.runtime.contract import Missing
from tests.runtime.process import ROOT

_OWN = ROOT / ".lambent" / "sam"
_HINT = "set LAMBENT_RIE, or: uv venv .lambent/sam && uv pip install -p .lambent/sam aws-sam-cli"


@cache
def find_rie() -> str:
    """The binary: LAMBENT_RIE, else that of an aws-sam-cli's wheel. Raises `Missing`."""
    if named := os.environ.get("LAMBENT_RIE"):
        return named
    if sys.platform != "linux":
        raise Missing("the runtime interface emulator runs on Linux only")
    found = _installed()
    if found is None and os.environ.get("CI") == "true":
        try:
            sam.ensure_sam()
        except commands.Missing as missing:
            raise Missing(str(missing)) from missing
        found = _installed()
    if found is None:
        raise Missing(f"no runtime interface emulator: {_HINT}")
    if not os.access(found, os.X_OK):  # a wheel's data files are not executable
        found.chmod(found.stat().st_mode | 0o755)
    return str(found)


def give_up(missing: Missing) -> NoReturn:
    """A target that is not here is skipped on a laptop, and a failure with CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(str(missing))
    pytest.skip(str(missing))


def _installed() -> Path | None:
    prefixes = [_OWN]
    if program := shutil.which("sam"):
        prefixes.append(Path(program).resolve().parent.parent)
    machine = "arm64" if platform.machine() in ("aarch64", "arm64") else "x86_64"
    pattern = f"lib/python*/site-packages/samcli/local/rapid/aws-lambda-rie-{machine}"
    return next((path for prefix in prefixes for path in sorted(prefix.glob(pattern))), None)
