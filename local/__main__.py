"""Runs one command of the one-machine stack: `python -m local up`."""

import importlib
import importlib.util
import sys

_COMMANDS = ("up", "admin", "cost", "sam")


def main() -> None:
    present = [name for name in _COMMANDS if importlib.util.find_spec(f"local.{name}")]
    if len(sys.argv) < 2 or sys.argv[1] not in present:
        sys.exit(f"usage: python -m local {{{','.join(present)}}} ...")
    command = sys.argv.pop(1)
    sys.argv[0] = f"local {command}"
    importlib.import_module(f"local.{command}").main()


if __name__ == "__main__":
    main()
