"""What the functions that nobody waits at import by the end of their first event."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Runs a handler once as Lambda would, sends a nudge, and prints what was imported for that.
FIRST_EVENT = """
import asyncio, importlib, json, sys
import lambda_stream.start
class Context:
    aws_request_id = "first"
    def get_remaining_time_in_millis(self): return 9_000
async def first():
    handler = importlib.import_module("handler").handler
    before = sorted(sys.modules)
    await handler(json.loads(sys.argv[1]), Context())
    from lambent.app import platform
    from lambent.dispatch import Work
    await platform().dispatch.nudge(Work.RUNS, ["a"])
    return before, sorted(sys.modules)
print(json.dumps(asyncio.run(first())))
"""
EVENTS = {"step": {"runs": ["a"]}, "deliver": {"events": ["a"], "schedules": ["b"]}, "poller": {}}
DRIVERS = {"pymongo", "psycopg", "httpx"}
# The gateway's and the chat function's, the AWS library for one signature, tracing that is off.
NEVER = {"fastapi", "mangum", "jinja2", "pygal", "starlette", "boto3", "botocore.client", "mcp",
         "uvicorn", "opentelemetry"}  # fmt: skip


def imported(function: str, environ: dict[str, str]) -> tuple[set[str], set[str]]:
    """The modules imported before the first event, and after it."""
    path = [str(ROOT / "layers" / name / "src") for name in ("runtime", "core", "agents")]
    done = subprocess.run(
        [sys.executable, "-c", FIRST_EVENT, json.dumps(EVENTS[function])],
        cwd=ROOT / "functions" / function, capture_output=True, text=True, check=True, timeout=120,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(path), **environ},
    )  # fmt: skip
    before, after = json.loads(done.stdout.splitlines()[-1])
    return set(before), set(after)


@pytest.fixture
def environ(postgres_dsn: str, mongo_uri: str, mongo_db_name: str) -> dict[str, str]:
    stores = {"POSTGRES_DSN": postgres_dsn, "MONGO_URI": mongo_uri, "MONGO_DB_NAME": mongo_db_name}
    nobody = "http://127.0.0.1:1"  # the nudge is lost, as nudges may be
    return {**stores, "AWS_ENDPOINT_URL_LAMBDA": nobody}


@pytest.mark.parametrize("function", ["step", "deliver"])
def test_a_function_imports_no_web_framework_and_its_drivers_late(
    function: str, environ: dict[str, str]
) -> None:
    before, after = imported(function, environ)
    assert before & (DRIVERS | NEVER) == set()
    assert after & NEVER == set()


def test_the_poller_needs_neither_postgres_nor_models_nor_workflows(
    environ: dict[str, str],
) -> None:
    before, after = imported("poller", environ)
    assert before & (DRIVERS | NEVER) == set()
    assert after & (NEVER | {"psycopg", "pydantic", "lambent_agents"}) == set()
    assert "pymongo" in after
