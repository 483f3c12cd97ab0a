"""The functions that the real `sam build` made, run by the real `sam local` in Docker.

As the README says it: its own lines are run, with a running `./local/up` that is lent to them.
"""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from local import sam as lender
from local.aws import sam
from local.aws.base_image import architecture
from local.aws.commands import ROOT
from local.services.process import free_port
from tests.aws.conftest import Built, Containers, recorded
from tests.functions.stack import running_stack

LIMIT_S = 60


def in_docker(test: Any) -> Any:
    return pytest.mark.aws(pytest.mark.xdist_group("docker")(test))


def readme_lines(program: str) -> dict[str, list[str]]:
    """The README's command lines of that program, by the function that each is about."""
    text = (ROOT / "README.md").read_text().replace("=x86_64", f"={architecture()}")
    found = [shlex.split(line) for line in re.findall(rf"^{program}.*$", text, re.M)]
    return {next((name for name in lender.TRIED if name in " ".join(words)), ""): words
            for words in found}  # fmt: skip


def in_folder(words: list[str], folder: Path) -> list[str]:
    """The line, for what was written there."""
    return [word.replace(str(lender.INTO), str(folder)) for word in words]


def test_the_readme_has_the_lines_that_the_command_prints() -> None:
    readme = [*readme_lines("sam local invoke").values(),
              *readme_lines("sam local start-lambda").values()]  # fmt: skip
    assert len(readme) == len(lender.TRIED) + 1
    assert readme == lender.lines(lender.INTO)


@dataclass(frozen=True, slots=True)
class Lent:
    """Where `python -m local sam` wrote what the lines read, while it runs."""

    folder: Path
    said: str


@pytest.fixture(scope="module")
def lent(lambda_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lent]:
    folder = tmp_path_factory.mktemp("lent")
    command = [sys.executable, "-m", "local", "sam", "--data", str(folder / "data")]
    command += ["--into", str(folder / "try"), "--lambda-port", str(free_port())]
    with running_stack(folder / "data"), subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as lending:  # fmt: skip
        try:
            assert lending.stdout is not None
            said = [lending.stdout.readline() for _ in range(2 + len(lender.TRIED))]
            yield Lent(folder / "try", "".join(said))
        finally:
            lending.send_signal(signal.SIGINT)
            assert lending.wait(LIMIT_S) == 0


@in_docker
@pytest.mark.parametrize("function", list(lender.TRIED))
def test_the_readme_s_line_of_each_function_works(function: str, built: Built, lent: Lent) -> None:
    words = in_folder(readme_lines("sam local invoke")[function], lent.folder)
    assert shlex.join(words) in lent.said
    done = sam.said_to(words, template=built.template)
    print(done.log)
    answer = done.json()
    match function:
        case "Chat":  # the streaming runtime, which the interface emulator makes buffer its answer
            assert answer["statusCode"] == 200, answer
            assert answer["headers"]["content-type"].startswith("text/event-stream")
            assert '"delta"' in answer["body"]
            assert answer["body"].rstrip().endswith("data: [DONE]")
        case "Gateway":
            assert answer["statusCode"] == 200, answer
            assert json.loads(answer["body"])
        case "Step":  # a nudge for a run that is gone
            assert answer == {"advanced": 0}
        case "Poller":  # nothing is due
            assert answer["left"], answer
        case _:
            assert "errorMessage" not in answer


@in_docker
def test_setup_made_the_tables_and_the_admin_key(containers: Containers) -> None:
    assert containers.admin_key.startswith("lam_admin_")


@in_docker
def test_a_setting_that_is_wrong_is_named_in_one_line(containers: Containers) -> None:
    wrong = containers.with_variables(POSTGRES_DSN="nonsense")
    done = wrong.invoke("Setup", recorded("setup"))
    answer = done.json()
    assert "POSTGRES_DSN" in answer["errorMessage"]
    assert "nonsense" not in done.log + done.answer


@in_docker
def test_the_poller_of_start_lambda_sends_what_is_due_to_its_functions(
    containers: Containers,
) -> None:
    """The run is started where nobody can be nudged: only a poller can find it."""
    asked = recorded("gateway_run", containers.admin_key)
    started = containers.invoke("Gateway", asked).json()
    assert started["statusCode"] == 202, started
    path = f"/runs/{json.loads(started['body'])['id']}"
    look = {**asked, "rawPath": path, "body": None}
    look["requestContext"]["http"] |= {"path": path, "method": "GET"}
    with containers.start_lambda() as started_lambda:
        wake_the_poller(containers.folder, started_lambda.url)
        until_s = time.monotonic() + 240  # three cold containers on a busy machine
        where = f"{started_lambda.url}/2015-03-31/functions/Gateway/invocations"
        while True:
            answer = httpx.post(where, json=look, timeout=120, trust_env=False).json()
            run = json.loads(answer["body"])
            if run["status"] == "completed" or time.monotonic() > until_s:
                break
            time.sleep(1)
        log = started_lambda.log()
    assert run["status"] == "completed", f"{run}\n{log[-4000:]}"


def wake_the_poller(folder: Path, url: str) -> None:
    """By the README's line."""
    words = in_folder(readme_lines("curl -X POST http://127.0.0.1:3001")["Poller"], folder)
    words = [word.replace("http://127.0.0.1:3001", url) for word in words]
    command = [*words, "--silent", "--noproxy", "*", "--write-out", "%{http_code}"]
    assert subprocess.check_output(command, text=True, timeout=LIMIT_S) == "202"
