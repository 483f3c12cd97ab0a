"""What a function's cold start costs over importing its libraries alone, and where it goes."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from local.emulator.template import read_template

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 15
TARGET = 1.3
OURS = ("lambent", "lambent_agents", "lambda_stream", "handler")
# Nothing is connected to: building a function opens no socket.
ENVIRON = {
    "MONGO_URI": "mongodb://127.0.0.1:1",
    "POSTGRES_DSN": "postgresql://127.0.0.1:1/none",
    "AWS_LAMBDA_FUNCTION_NAME": "bench",
}
_LIST = """
import sys
before = set(sys.modules)
{body}
found = [n for n in sys.modules if n not in before and n.split(".")[0] not in {ours!r}]
print("\\n".join(n for n in found if getattr(sys.modules[n], "__spec__", None)))
"""
# Both sides are timed by the same statements inside a fresh process: its own start counts for none.
_TIME = "import time; t=time.perf_counter()\n{body}\nprint((time.perf_counter()-t)*1000)"


@dataclass(frozen=True, slots=True)
class Measured:
    """Medians in milliseconds."""

    function: str
    whole_ms: float
    libraries_ms: float
    top: str

    @property
    def ratio(self) -> float:
        return self.whole_ms / self.libraries_ms


def main() -> None:
    """Print the table."""
    table = Table(title=f"start: medians of {ROUNDS} fresh processes, ms", title_justify="left")
    for name in ("function", "import + build", "libraries alone", "ratio", "", "largest shares"):
        table.add_column(name, justify="right" if name in {"import + build", "ratio"} else "left")
    for folder in _functions():
        one = measure(folder)
        met = "met" if one.ratio <= TARGET else f"missed ({TARGET} ×)"
        table.add_row(
            one.function, f"{one.whole_ms:.0f}", f"{one.libraries_ms:.0f}", f"{one.ratio:.2f} ×",
            met, one.top,
        )  # fmt: skip
    Console().print(table)


def measure(folder: Path) -> Measured:
    """Time one function against the very modules of others that it loads, in the same order."""
    whole = f"import sys; sys.path.insert(0, {str(folder)!r})\nimport handler"
    listed = _run(_LIST.format(body=whole, ours=OURS)).split()
    imports = "import importlib, contextlib\n" + "\n".join(
        f"with contextlib.suppress(ImportError): importlib.import_module({name!r})"
        for name in listed
    )
    times: dict[str, list[float]] = {whole: [], imports: []}
    for _ in range(ROUNDS):
        for body, taken in times.items():
            taken.append(float(_run(_TIME.format(body=body))))
    return Measured(
        folder.name,
        statistics.median(times[whole]),
        statistics.median(times[imports]),
        _largest(whole),
    )


def _functions() -> list[Path]:
    template = read_template(ROOT / "template.yaml")
    return sorted(
        {
            function.code
            for function in template.functions
            if (function.code / "handler.py").exists()
        }
    )


def _run(program: str, *flags: str) -> str:
    done = subprocess.run(
        [sys.executable, *flags, "-c", program],
        env={**os.environ, **ENVIRON},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr if flags else done.stdout


def _largest(body: str) -> str:
    shares: dict[str, int] = {}
    for line in _run(body, "-X", "importtime").splitlines()[1:]:
        if line.startswith("import time:"):
            own_us, _, module = line.removeprefix("import time:").split("|")
            top = module.strip().split(".")[0]
            shares[top] = shares.get(top, 0) + int(own_us)
    ordered = sorted(shares.items(), key=lambda item: -item[1])[:6]
    return ", ".join(f"{name} {us / 1000:.0f}" for name, us in ordered)


if __name__ == "__main__":
    main()
