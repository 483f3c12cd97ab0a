"""Runs the whole platform with the workflows of a test in its functions, as a deploy would."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.functions.stack import ROOT, Stack, running_stack

STORM_LAYER = Path(__file__).resolve().parent / "layer"
# No run of these tests asks a model: an address where nobody listens saves starting one.
SETTINGS = {"RATE_LIMIT_MAX_REQUESTS": "1000000", "OLLAMA_HOST": "http://127.0.0.1:9"}

Edit = Callable[[str], str]


@contextmanager
def deployed(
    data: Path,
    *,
    layer: Path = STORM_LAYER,
    module: str = "storm_workflows",
    environments: int = 4,
    edits: Sequence[Edit] = (),
    environ: Mapping[str, str] | None = None,
) -> Iterator[Stack]:
    """The project's own template with another agents' layer, changed by each of `edits`."""
    text = (ROOT / "template.yaml").read_text()
    text = re.sub(r"(ContentUri|CodeUri): (\S+)", rf"\1: {ROOT}/\2", text)
    text = text.replace(f"{ROOT}/layers/agents", str(layer))
    for edit in edits:
        text = edit(text)
    data.mkdir(parents=True, exist_ok=True)
    template = data / "template.yaml"
    template.write_text(text)
    flags = ["--template", str(template), "--max-environments", str(environments)]
    settings = {**SETTINGS, "AGENT_MODULES": module, **(environ or {})}
    with running_stack(data, settings, flags=flags) as stack:
        yield stack


def tick_every(seconds: int) -> Edit:
    """The poller's schedule, below what AWS allows."""
    return lambda text: _replaced(text, "rate(1 minute)", f"rate({seconds} seconds)")


def deaf(function: str) -> Edit:
    """The Invokes that this function sends reach nobody: a port where nobody listens."""
    nobody = "AWS_ENDPOINT_URL_LAMBDA: http://127.0.0.1:9"

    def edit(text: str) -> str:
        before, own, after = text.partition(f"/functions/{function}\n")
        assert own, f"no function {function}"
        properties, ending, rest = after.partition("\n\n")
        if "Variables:\n" in properties:
            properties = properties.replace("Variables:\n", f"Variables:\n          {nobody}\n", 1)
        else:
            properties = f"      Environment: {{Variables: {{{nobody}}}}}\n{properties}"
        return before + own + properties + ending + rest

    return edit


def _replaced(text: str, old: str, new: str) -> str:
    assert old in text, old
    return text.replace(old, new)


def full() -> bool:
    """Whether the long variants are asked for (`LAMBENT_STORM=full`)."""
    return os.environ.get("LAMBENT_STORM") == "full"
