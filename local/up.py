"""Starts the whole platform on one machine, and ends it without leaving anything behind."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from local.emulator.intrinsics import TemplateError
from local.screen import Screen
from local.stack import Options, Stack, StackError
from local.state import DataFolder, StateError

ROOT = Path(__file__).resolve().parent.parent
DEFAULT_PORT = 8080


def main() -> None:
    options, verbose = _parse(sys.argv[1:])
    screen = Screen(verbose=verbose)
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING)
    sys.exit(asyncio.run(_run(options, screen)))


async def _run(options: Options, screen: Screen) -> int:
    stop, hurry = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, on_signal)
    try:
        folder = DataFolder(options.data)
    except StateError as error:
        screen.fail(str(error))
        return 1
    stack = Stack(options, folder=folder, screen=screen)
    try:
        starting = asyncio.create_task(stack.start())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await stop.wait()
            screen.note("Stopping ...")
        else:
            starting.cancel()
            await asyncio.wait({starting})
        return 0
    except (StackError, TemplateError) as error:
        screen.fail(str(error))
        return 1
    except OSError as error:  # a folder that cannot be written, a full disk, no process left
        screen.fail(f"the stack cannot start: {error}")
        return 1
    finally:
        clean = await stack.stop(hurry=hurry)
        folder.close()
        if not clean:  # a thread still waits for a service; it must not hold us up
            os._exit(1)


def _parse(arguments: list[str]) -> tuple[Options, bool]:
    parser = argparse.ArgumentParser(prog="./local/up", description=__doc__)
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 takes a free one")
    parser.add_argument(
        "--data",
        type=Path,
        default=ROOT / ".lambent" / "data",
        metavar="DIR",
        help="kept between runs (default: .lambent/data)",
    )
    parser.add_argument("--reload", action="store_true", help="a saved file restarts its function")
    parser.add_argument("--verbose", action="store_true", help="show every log line")
    parser.add_argument(
        "--max-environments",
        type=int,
        default=10,
        metavar="N",
        help="processes a function at most (default: 10)",
    )
    parser.add_argument(
        "--template", type=Path, default=ROOT / "template.yaml", help=argparse.SUPPRESS
    )
    given = parser.parse_args(arguments)
    if not 0 <= given.port <= 65535 or given.max_environments < 1:
        parser.error("--port must be from 0 to 65535 and --max-environments at least 1")
    options = Options(
        template=given.template,
        data=given.data,
        port=given.port,
        reload=given.reload,
        max_environments=given.max_environments,
        postgres_dsn=os.environ.get("POSTGRES_DSN") or None,
        mongo_uri=os.environ.get("MONGO_URI") or None,
        ollama_host=os.environ.get("OLLAMA_HOST") or None,
        authenticated=(os.environ.get("AUTH_ENABLED") or "true").lower() not in _OFF,
    )
    return options, given.verbose


_OFF = ("false", "0", "no", "off")
