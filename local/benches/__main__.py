"""Runs the benchmark that the command line names, or lists them all."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

from local.services.mongo import server_command


def main() -> int:
    """Exit status 2 where there is no such benchmark."""
    names = {
        found.name: importlib.import_module(f"local.benches.{found.name}")
        for found in pkgutil.iter_modules([str(Path(__file__).parent)])
        if not found.name.startswith("_")
    }
    benches = {name: module for name, module in names.items() if hasattr(module, "main")}
    asked = sys.argv[1:]
    if asked and asked[0] not in benches:
        print(f"There is no benchmark {asked[0]!r}. There are:", file=sys.stderr)
    if not asked or asked[0] not in benches:
        for name, module in benches.items():
            print(f"{name:12} {(module.__doc__ or '').splitlines()[0]}")
        return 2 if asked else 0
    sys.argv = [f"local/bench {asked[0]}", *asked[1:]]
    print(f"A MongoDB of our own is started as: {' '.join(server_command())}", file=sys.stderr)
    benches[asked[0]].main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
