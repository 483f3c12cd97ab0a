"""Lends the services of a running `./local/up` to functions that `sam local` runs in Docker.

`python -m local sam` writes what the lines of the README read, with the admin key in the events,
and leads containers to the services, which listen on this machine's loopback only, until Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from local.aws.base_image import architecture
from local.aws.commands import ROOT, Missing
from local.aws.docker import answers, bridge_address
from local.aws.forward import HOST_IN_CONTAINER, Forwarder, forwarding
from local.aws.sam import invoke_words, start_lambda_words

EVENTS: Final = ROOT / "tests" / "events"
INTO: Final = Path(".lambent/try")
START_LAMBDA_PORT: Final = 3001  # `sam local start-lambda`'s own
TRIED: Final = {
    "Chat": "chat_stream",
    "Gateway": "gateway_ready",
    "Step": "step",
    "Deliver": "deliver",
    "Poller": "poller_tick",
    "Setup": "setup",
}


def main() -> None:
    given = _parse(sys.argv[1:])
    try:
        ready = json.loads((given.data / "ready.json").read_text())
    except OSError:
        sys.exit(f"No `./local/up` runs with the data folder {given.data}: start it first.")
    services = {name: ready[name.lower()] for name in ("MONGO_URI", "POSTGRES_DSN", "OLLAMA_HOST")}
    if not answers():
        sys.exit("No Docker daemon answers.")
    # Ctrl-C, or a `kill`, that comes from now on is waited for; threads inherit the mask.
    ends = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        with lending(services, port=given.lambda_port) as variables:
            write(given.into, variables, key=ready["admin_key"])
            print(f"Containers reach the services of {ready['url']} until Ctrl-C.", flush=True)
            print("\n".join(shlex.join(words) for words in lines(given.into)), flush=True)
            signal.sigwait(ends)
    except Missing as missing:
        sys.exit(str(missing))


def lines(into: Path) -> list[list[str]]:
    """The commands that read what `write` wrote there, for this machine's processor."""
    variables, processor = into / "vars.json", architecture()
    tried = [
        invoke_words(function, event=into / f"{name}.json", variables=variables,
                     architecture=processor)
        for function, name in TRIED.items()
    ]  # fmt: skip
    return [*tried, start_lambda_words(variables=variables, architecture=processor)]


@contextmanager
def lending(services: Mapping[str, str], *, port: int) -> Iterator[dict[str, str]]:
    """The variables of functions in containers, which reach the services while the block lasts.

    They send each other work at this machine's `port`, where `sam local start-lambda` may listen.
    """
    with ExitStack() as stack:
        address = bridge_address()
        # Docker's machine is another one (on a Mac), and leads to this one's loopback by itself.
        forwarder = stack.enter_context(forwarding(address)) if _is_ours(address) else None
        own = {
            "AWS_ENDPOINT_URL_LAMBDA": f"http://127.0.0.1:{port}",
            # It knows functions by their names in the template, and no alias.
            "STEP_FUNCTION": "Step",
            "DELIVER_FUNCTION": "Deliver",
            "POLLER_FUNCTION": "Poller",
        }
        yield {name: _reachable(text, forwarder) for name, text in {**services, **own}.items()}


def write(into: Path, variables: Mapping[str, str], *, key: str | None) -> None:
    """The variables as `vars.json`, and every recorded event with this key in it."""
    into.mkdir(parents=True, exist_ok=True)
    into.chmod(0o700)  # for the key
    (into / "vars.json").write_text(json.dumps({"Parameters": dict(variables)}, indent=2))
    for path in EVENTS.glob("*.json"):
        text = path.read_text()
        (into / path.name).write_text(text.replace("Bearer KEY", f"Bearer {key or 'KEY'}"))


def _reachable(uri: str, forwarder: Forwarder | None) -> str:
    if forwarder is not None:
        return forwarder.reachable(uri)
    return uri.replace("127.0.0.1", HOST_IN_CONTAINER).replace("localhost", HOST_IN_CONTAINER)


def _is_ours(address: str) -> bool:
    try:
        socket.create_server((address, 0)).close()
    except OSError:
        return False
    return True


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local sam", description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / ".lambent/data", help="as `up` has it")
    parser.add_argument("--into", type=Path, default=INTO, help=f"(default: {INTO})")
    parser.add_argument("--lambda-port", type=int, default=START_LAMBDA_PORT, metavar="N")
    return parser.parse_args(arguments)
