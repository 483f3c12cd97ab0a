"""How a Docker daemon is shared and ended, with stand-ins for Docker's own programs."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from local.aws import docker
from local.aws.commands import Missing

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="only root on Linux starts a daemon"
)
# A daemon is there for as long as its mark is; a client looks for the mark.
CLIENT = '#!/bin/sh\n[ -e "{folder}/mark" ]\n'
DAEMON = """#!/bin/sh
trap 'rm "{folder}/mark"; exit 0' TERM
for word; do echo "$word" >>"{folder}/asked"; done
touch "{folder}/mark"
while :; do sleep 0.05; done
"""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in {"docker": CLIENT, "dockerd": DAEMON, "iptables": "#!/bin/sh\n"}.items():
        program = tmp_path / name
        program.write_text(text.format(folder=tmp_path))
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(docker, "WORK", tmp_path / "work")
    return tmp_path


class User:
    """Uses Docker on a thread of its own until it is told to leave."""

    def __init__(self) -> None:
        self.inside, self.leaving = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._use)
        self.thread.start()

    def _use(self) -> None:
        with docker.running():
            self.inside.set()
            self.leaving.wait(20)

    def leave(self) -> None:
        self.leaving.set()


def until(done: Callable[[], bool]) -> None:
    ends_s = time.monotonic() + 20
    while not done():
        assert time.monotonic() < ends_s
        time.sleep(0.02)


def test_a_daemon_of_ours_ends_with_its_use(machine: Path) -> None:
    with docker.running():
        assert (machine / "mark").exists()
    assert not (machine / "mark").exists()


def test_a_daemon_that_was_there_stays(machine: Path) -> None:
    (machine / "mark").touch()
    with docker.running():
        pass
    assert (machine / "mark").exists()
    assert not (machine / "asked").exists()


def test_who_started_it_waits_for_the_others(machine: Path) -> None:
    first = User()
    until(first.inside.is_set)
    second = User()
    until(second.inside.is_set)
    first.leave()
    first.thread.join(0.5)
    assert first.thread.is_alive()
    assert (machine / "mark").exists()
    second.leave()
    for user in (first, second):
        user.thread.join(20)
    assert not (machine / "mark").exists()


def test_what_a_killed_daemon_left_behind_is_not_looked_at(machine: Path) -> None:
    """Its process ids may be somebody else's by now."""
    with docker.running():
        asked = (machine / "asked").read_text().split()
    own = [word.split("=")[1] for word in asked if word.startswith(("--pidfile=", "--exec-root="))]
    assert len(own) == 2
    assert not any(Path(name).parent.exists() for name in own)  # and nothing is left behind


def test_a_daemon_that_does_not_start_says_why(machine: Path) -> None:
    (machine / "dockerd").write_text("#!/bin/sh\necho no cgroups here\nexit 1\n")
    with pytest.raises(Missing, match="no cgroups here"), docker.running():
        pass
