"""Environments of the emulator: started on demand, limited, timed out, killed, scaled in."""

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from local.emulator.pool import Throttled
from local.emulator.supervisor import Emulator, FunctionError
from tests.unit.emulator_toys import STREAMING, Toys, eventually, gone

SLEEPER = """
import os, time
def handler(event, context):
    print("working", os.getpid())
    time.sleep(event["for_s"])
    return {"pid": os.getpid(), "id": context.aws_request_id}
"""


@pytest.fixture
def toys(tmp_path: Path) -> Toys:
    return Toys(tmp_path)


async def failure_of(emulator: Emulator, name: str, event: dict[str, Any]) -> tuple[str, str]:
    with pytest.raises(FunctionError) as caught:
        await emulator.invoke(name, event)
    return caught.value.failure.error_type, caught.value.failure.message


async def test_an_environment_is_used_again(toys: Toys) -> None:
    async with toys.add("sleeper", SLEEPER).run() as emulator:
        first = await emulator.invoke("sleeper", {"for_s": 0})
        second = await emulator.invoke("sleeper", {"for_s": 0})
        assert first["pid"] == second["pid"]
        assert first["id"] != second["id"]
        assert emulator.pids() == {"sleeper": [first["pid"]]}
    assert gone(first["pid"])


async def test_requests_at_once_get_an_environment_each(toys: Toys) -> None:
    async with toys.add("sleeper", SLEEPER).run() as emulator:
        calls = [emulator.invoke("sleeper", {"for_s": 1}) for _ in range(3)]
        pids = {answer["pid"] for answer in await asyncio.gather(*calls)}
    assert len(pids) == 3


async def test_beyond_the_reserved_concurrency_requests_are_throttled(toys: Toys) -> None:
    toys.add("sleeper", SLEEPER, ReservedConcurrentExecutions=2)
    async with toys.run() as emulator:
        calls = [emulator.invoke("sleeper", {"for_s": 0.5}) for _ in range(5)]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(outcome, Throttled) for outcome in outcomes) == 3
        assert (await emulator.invoke("sleeper", {"for_s": 0}))["pid"]
        assert len(emulator.pids()["sleeper"]) == 2


async def test_beyond_the_limit_of_this_machine_requests_wait(toys: Toys) -> None:
    async with toys.add("sleeper", SLEEPER).run(max_environments=1) as emulator:
        calls = [emulator.invoke("sleeper", {"for_s": 0.05}) for _ in range(4)]
        assert len({answer["pid"] for answer in await asyncio.gather(*calls)}) == 1


async def test_a_function_that_takes_too_long_is_killed(toys: Toys) -> None:
    async with toys.add("sleeper", SLEEPER, Timeout=1).run() as emulator:
        before_s = time.monotonic()
        error_type, message = await failure_of(emulator, "sleeper", {"for_s": 60})
        assert time.monotonic() - before_s < 20
        assert error_type == "Sandbox.Timedout"
        assert "Task timed out after 1.00 seconds" in message
        assert (await emulator.invoke("sleeper", {"for_s": 0}))["pid"]
    assert "Task timed out after 1.00 seconds" in toys.log("sleeper")


async def test_a_killed_process_is_an_exit_error_and_is_replaced(toys: Toys) -> None:
    async with toys.add("sleeper", SLEEPER).run() as emulator:
        pid = (await emulator.invoke("sleeper", {"for_s": 0}))["pid"]
        call = asyncio.create_task(failure_of(emulator, "sleeper", {"for_s": 60}))
        await eventually(lambda: toys.log("sleeper").count("working") == 2)
        os.kill(pid, signal.SIGKILL)
        error_type, message = await call
        assert error_type == "Runtime.ExitError"
        assert message.endswith("Error: Runtime exited with error: signal: killed")
        assert (await emulator.invoke("sleeper", {"for_s": 0}))["pid"] != pid


async def test_a_process_killed_while_it_starts_is_started_once_more(toys: Toys) -> None:
    source = "import time\ntime.sleep(0.5)\n" + SLEEPER
    async with toys.add("slow", source).run() as emulator:
        call = asyncio.create_task(emulator.invoke("slow", {"for_s": 0}))
        await eventually(lambda: bool(emulator.pids()["slow"]))
        (pid,) = emulator.pids()["slow"]
        os.kill(pid, signal.SIGKILL)
        assert (await call)["pid"] != pid


async def test_an_idle_process_that_is_killed_disappears_from_the_pids(toys: Toys) -> None:
    changes: list[int] = []
    toys.add("sleeper", SLEEPER)
    async with toys.run(on_change=lambda: changes.append(1)) as emulator:
        pid = (await emulator.invoke("sleeper", {"for_s": 0}))["pid"]
        changes.clear()
        os.kill(pid, signal.SIGKILL)
        await eventually(lambda: not emulator.pids()["sleeper"])
        assert changes


async def test_a_request_right_after_a_kill_is_answered(toys: Toys) -> None:
    async with toys.add("sleeper", SLEEPER).run() as emulator:
        for _ in range(5):
            pid = (await emulator.invoke("sleeper", {"for_s": 0}))["pid"]
            os.kill(pid, signal.SIGKILL)
            call = emulator.invoke("sleeper", {"for_s": 0})
            (outcome,) = await asyncio.gather(call, return_exceptions=True)
            assert isinstance(outcome, dict | FunctionError)


async def test_killing_at_any_moment_loses_no_request_silently(toys: Toys) -> None:
    async with toys.add("sleeper", SLEEPER).run(max_environments=3) as emulator:
        calls = [asyncio.create_task(emulator.invoke("sleeper", {"for_s": 0.1})) for _ in range(30)]
        for _ in range(10):
            await asyncio.sleep(0.1)
            for pid in emulator.pids()["sleeper"][:1]:
                os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(outcome, dict | FunctionError) for outcome in outcomes)
        assert (await emulator.invoke("sleeper", {"for_s": 0}))["pid"]


async def test_an_import_error_reaches_the_caller(toys: Toys) -> None:
    async with toys.add("broken", "import no_such_module\n").run() as emulator:
        error_type, message = await failure_of(emulator, "broken", {})
        assert "no_such_module" in message
        assert error_type == "Runtime.ImportModuleError"
        assert emulator.pids() == {"broken": []}


async def test_idle_environments_are_scaled_in(toys: Toys) -> None:
    async with toys.add("sleeper", SLEEPER).run(idle_s=0.2) as emulator:
        pid = (await emulator.invoke("sleeper", {"for_s": 0}))["pid"]
        await eventually(lambda: gone(pid))


async def test_a_runtime_with_an_extension_gets_sigterm_first(toys: Toys) -> None:
    source = """
    import lambda_stream, os
    lambda_stream.on_shutdown(lambda: print("told to stop"))
    async def handler(event, context):
        return {"pid": os.getpid()}
    """
    async with toys.add("polite", source, env=STREAMING).run() as emulator:
        pid = (await emulator.invoke("polite", {}))["pid"]
    assert gone(pid)
    assert "told to stop" in toys.log("polite")


async def test_what_a_function_starts_ends_with_it(toys: Toys) -> None:
    source = """
    import subprocess
    def handler(event, context):
        return {"child": subprocess.Popen(["sleep", "600"]).pid}
    """
    async with toys.add("parent", source).run() as emulator:
        child = (await emulator.invoke("parent", {}))["child"]
    await eventually(lambda: gone(child))


async def test_the_log_reads_like_cloudwatch(toys: Toys) -> None:
    async with toys.add("sleeper", SLEEPER, MemorySize=256).run() as emulator:
        request_id = (await emulator.invoke("sleeper", {"for_s": 0}))["id"]
        await toys.logged("sleeper", "REPORT")
    log = toys.log("sleeper")
    assert f"START RequestId: {request_id} Version: $LATEST" in log
    assert "sleeper | working" in log
    assert f"END RequestId: {request_id}" in log
    report = next(line for line in log.splitlines() if "REPORT" in line)
    for part in (request_id, "Duration:", "Billed Duration:", "Memory Size: 256 MB"):
        assert part in report
    assert "Init Duration:" in report


async def test_a_function_sees_lambdas_environment_and_not_the_shells(
    toys: Toys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOT_DECLARED", "x")
    monkeypatch.setenv("FROM_SHELL", "shell")
    source = "import os\ndef handler(event, context):\n    return dict(os.environ)\n"
    env = {"FROM_SHELL": "template", "FROM_STACK": "template", "PLAIN": "template"}
    async with toys.add("env", source, env=env).run(overrides={"FROM_STACK": "stack"}) as emulator:
        seen = await emulator.invoke("env", {})
        assert seen["AWS_ENDPOINT_URL_LAMBDA"] == emulator.invoke_url
    assert (seen["FROM_SHELL"], seen["FROM_STACK"], seen["PLAIN"]) == ("shell", "stack", "template")
    assert "NOT_DECLARED" not in seen
    assert seen["AWS_LAMBDA_FUNCTION_NAME"] == "EnvFunction"
    assert seen["LAMBDA_TASK_ROOT"].endswith("functions/env")
