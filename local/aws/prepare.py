"""Fetches and builds what the tests of the AWS side need, side by side, before they ask for it.

`python -m local.aws.prepare` may run in the background, nicely, while other tests run. What fails
here only costs time: the tests do it again, and then say what is wrong.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from local.aws import base_image, docker, localstack, sam
from local.aws.commands import WORK, Missing, need
from local.services import ServiceError


def _image() -> None:
    with docker.running():
        base_image.ensure_image()


def _build() -> None:
    sam.ensure_sam()
    sam.ensure_built(WORK / "build", architecture=base_image.architecture())


PARTS: dict[str, Callable[[], object]] = {
    "the Lambda base image": _image,
    "sam and sam build": _build,
    "LocalStack": localstack.ensure_environment,
}


def main() -> None:
    os.nice(5)
    try:  # all at once: the packages' lock is the machine's
        need("make", "docker", "dockerd", "iptables", "debootstrap", "tar")
    except Missing as missing:
        print(missing, flush=True)
    with ThreadPoolExecutor(len(PARTS)) as pool:
        done = list(pool.map(_timed, PARTS.items()))
    sys.exit(not all(done))


def _timed(part: tuple[str, Callable[[], object]]) -> bool:
    name, prepare = part
    began_s = time.monotonic()
    try:
        prepare()
        outcome = "ready"
    except (Missing, ServiceError, RuntimeError, OSError) as error:
        outcome = f"NOT ready: {error}"
    print(f"{name}: {outcome} ({time.monotonic() - began_s:.0f} s)", flush=True)
    return outcome == "ready"


if __name__ == "__main__":
    main()
