"""What two hundred runs come to while the processes, and the store, are killed for a minute."""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.functions.storm.deployed import deployed
from tests.functions.storm.storm import Plan, Storm, Toll


def main() -> None:
    """Print what was killed, what it cost and what was found; exit status 1 with problems."""
    parser = argparse.ArgumentParser(prog="./local/bench storm", description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--kills-s", type=float, default=60.0)
    parser.add_argument("--outage-s", type=float, default=20.0, help="0: MongoDB stays up")
    parser.add_argument("--seed", type=int, help="repeats who is killed and when events come")
    given = parser.parse_args()
    plan = Plan(
        runs=given.runs,
        kills_s=given.kills_s,
        outage_at_s=given.kills_s / 3 if given.outage_s else None,
        outage_s=given.outage_s,
        patience_s=given.kills_s + 600,
        **({} if given.seed is None else {"seed": given.seed}),
    )
    with (
        tempfile.TemporaryDirectory(prefix="lambent-storm-") as folder,
        deployed(Path(folder) / "data") as stack,
    ):
        toll = asyncio.run(Storm(stack, plan).rage())
    console = Console()
    console.print(_table(plan, toll))
    for problem in toll.findings.problems:
        console.print(problem, markup=False)
    if toll.findings.problems:
        raise SystemExit(1)


def _table(plan: Plan, toll: Toll) -> Table:
    title = f"storm: {plan.runs} runs of 20 steps, {plan.kills_s:.0f} s, seed {toll.seed}"
    table = Table("", "", title=title, title_justify="left", show_header=False)
    for name, count in sorted(toll.killed.items()):
        table.add_row(f"killed: {name}", str(count))
    for name, count in sorted(toll.requests.items()):
        table.add_row(f"requests {name}", str(count))
    for name, count in toll.findings.counts.items():
        table.add_row(name, str(count))
    table.add_row("all quiet after", f"{toll.quiet_after_s:.0f} s")
    table.add_row("broken promises", str(len(toll.findings.problems)))
    return table


if __name__ == "__main__":
    main()
