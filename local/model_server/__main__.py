"""Serves Ollama's API on 127.0.0.1: `python -m local.model_server --port 11434`."""

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

from local.model_server import durations
from local.model_server.app import ModelApi
from local.model_server.engine import Engine, packaged_model
from local.model_server.gguf import Gguf
from local.model_server.http1 import HttpServer
from local.model_server.residence import Limits, Residence


def limits_from_environment() -> Limits:
    """Ollama's own variables. ValueError for one that cannot be read."""
    given = os.environ
    return Limits(
        parallel=max(1, int(given.get("OLLAMA_NUM_PARALLEL") or 1)),
        context=max(64, int(given.get("OLLAMA_CONTEXT_LENGTH") or 4096)),
        max_queue=max(0, int(given.get("OLLAMA_MAX_QUEUE") or 512)),
        keep_alive_s=_keep_alive_s(given.get("OLLAMA_KEEP_ALIVE") or "5m"),
    )


def _keep_alive_s(text: str) -> float:
    with contextlib.suppress(ValueError):
        return float(text)
    return durations.seconds(text)


async def serve(name: str, path: Path, *, port: int, limits: Limits) -> None:
    """Serve until SIGTERM or SIGINT."""
    gguf = Gguf.read(path)

    def load() -> Engine:
        return Engine(path, context=limits.context, parallel=limits.parallel)

    residence = Residence(load, limits)
    server = HttpServer(ModelApi(name, gguf, residence))
    await server.listen(port)
    print(f"{name} on http://127.0.0.1:{server.port}", flush=True)
    residence.preload()
    residence.keep_for(None)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, ended.set)
    await ended.wait()
    await server.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="local.model_server", description=__doc__)
    parser.add_argument("--port", type=int, default=11434)
    parser.add_argument("--model", default="smollm2:135m", help="the name it is asked for by")
    parser.add_argument("--gguf", type=Path, help="a model file of your own")
    arguments = parser.parse_args()
    try:
        path = arguments.gguf or packaged_model()
        limits = limits_from_environment()
        asyncio.run(serve(arguments.model, path, port=arguments.port, limits=limits))
    except (OSError, ValueError) as error:
        sys.exit(f"model server: {error}")
    # llama.cpp's threads hold nothing worth waiting for.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
