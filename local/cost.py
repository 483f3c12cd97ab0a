"""Says what a month costs: `python -m local cost --chats 100000 --runs 20000 --steps 6`.

Prices are AWS's list prices of us-east-1, without free tiers, as of November 2026; each stands
below once, with its unit. What the platform does for a chat and for a step is counted by
tests/aws/test_cost_counts.py, not assumed.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields

HOURS_A_MONTH = 730.0
MINUTES_A_MONTH = HOURS_A_MONTH * 60


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars."""

    lambda_request: float = 0.20e-6
    lambda_gb_s_arm64: float = 0.0000133334
    lambda_gb_s_x86_64: float = 0.0000166667
    streamed_gb: float = 0.008  # beyond the first 6 MB of each answer
    log_gb: float = 0.50
    alarm_month: float = 0.10
    metric_month: float = 0.30
    secret_month: float = 0.40
    mongo_month: float = 57.0  # the smallest dedicated cluster; a shared one is cheaper
    postgres_month: float = 12.0  # db.t4g.micro
    rds_proxy_month: float = 21.9  # two vCPUs at least
    durable_operation: float = 8e-6
    state_transition: float = 25e-6
    server_month: float = 28.8  # two tasks of half a vCPU and 1 GB on Fargate, arm64


@dataclass(frozen=True, slots=True)
class Counts:
    """What the platform does; held against the running code by a test."""

    chat_invocations: float = 1
    chat_postgres_calls: float = 3  # admit, the first token's verdict, finish
    chat_second_postgres_calls: float = 1  # what was used so far is booked
    chat_mongo_writes: float = 4  # a stream's beginning and end
    chat_second_mongo_writes: float = 5  # its frames
    chat_second_mongo_reads: float = 1.5  # whether somebody stops it
    step_mongo_writes: float = 1  # the checkpoint
    run_mongo_writes: float = 6  # from its insert to its last settle, without its steps
    run_mongo_reads: float = 1
    run_invocations: float = 2  # the gateway's request and one slice; waits add one each


@dataclass(frozen=True, slots=True)
class Load:
    """One month."""

    chats: int = 0
    chat_s: float = 8.0
    chat_tokens: int = 400
    runs: int = 0
    steps: int = 6
    step_s: float = 1.0
    waits: int = 1
    architecture: str = "arm64"
    memory_gb: float = 0.5
    small_memory_gb: float = 0.25
    custom_metrics: int = 27  # all there are; one that is not written in an hour costs nothing
    alarms: int = 22  # metrics that are watched: a share is two
    log_bytes: int = 1200  # a request, with Lambda's own lines
    poller_tick_s: float = 0.25
    peak_at_once: int = 10


@dataclass(frozen=True, slots=True)
class Bill:
    """US dollars a month, and what is not money: connections."""

    chat_functions: float
    run_functions: float
    poller: float
    logs: float
    watching: float
    secrets: float
    mongo: float
    postgres: float
    postgres_connections: int
    postgres_calls: int  # by chats
    mongo_writes: int
    mongo_reads: int
    durable_functions: float
    step_functions: float
    always_on: float

    @property
    def aws(self) -> float:
        """What AWS asks for beside the stores."""
        return sum((self.chat_functions, self.run_functions, self.poller, self.logs,
                    self.watching, self.secrets))  # fmt: skip

    @property
    def total(self) -> float:
        return self.aws + self.mongo + self.postgres


def bill(load: Load, *, prices: Prices | None = None, counts: Counts | None = None) -> Bill:
    """The month's bill; a pure function of its arguments."""
    price, count = prices or Prices(), counts or Counts()
    gb_s = price.lambda_gb_s_arm64 if load.architecture == "arm64" else price.lambda_gb_s_x86_64
    invocations = load.chats * count.chat_invocations
    run_invocations = load.runs * (count.run_invocations + load.waits)
    run_s = load.runs * load.steps * load.step_s
    chats_s = load.chats * load.chat_s
    ticks_s = MINUTES_A_MONTH * load.poller_tick_s
    requests = invocations + run_invocations + MINUTES_A_MONTH
    operations = load.runs * (load.steps + load.waits + 1)
    return Bill(
        chat_functions=invocations * price.lambda_request + chats_s * load.memory_gb * gb_s,
        run_functions=run_invocations * price.lambda_request + run_s * load.memory_gb * gb_s,
        poller=MINUTES_A_MONTH * price.lambda_request + ticks_s * load.small_memory_gb * gb_s,
        logs=requests * load.log_bytes / 1e9 * price.log_gb,
        watching=load.alarms * price.alarm_month + load.custom_metrics * price.metric_month,
        secrets=price.secret_month,
        mongo=price.mongo_month,
        postgres=price.postgres_month,
        postgres_connections=load.peak_at_once,
        postgres_calls=round(
            load.chats
            * (count.chat_postgres_calls + load.chat_s * count.chat_second_postgres_calls)
        ),
        mongo_writes=round(
            load.runs * (count.run_mongo_writes + load.steps * count.step_mongo_writes)
            + load.chats * count.chat_mongo_writes
            + chats_s * count.chat_second_mongo_writes
        ),
        mongo_reads=round(
            load.runs * count.run_mongo_reads + chats_s * count.chat_second_mongo_reads
        ),
        durable_functions=operations * price.durable_operation,
        step_functions=operations * price.state_transition,
        always_on=price.server_month,
    )


def table(load: Load, *, prices: Prices | None = None) -> str:
    """The bill for people."""
    price = prices or Prices()
    one = bill(load, prices=price)
    rows = [
        (f"chat: {load.chats:,} chats of {load.chat_s:g} s", one.chat_functions),
        (f"runs: {load.runs:,} of {load.steps} steps of {load.step_s:g} s", one.run_functions),
        ("poller, each minute", one.poller),
        ("logs", one.logs),
        (f"{load.alarms} alarms, {load.custom_metrics} metrics", one.watching),
        ("the admin key's secret", one.secrets),
        ("AWS, beside the stores", one.aws),
        ("MongoDB, the smallest dedicated cluster", one.mongo),
        ("Postgres, db.t4g.micro", one.postgres),
        ("in all", one.total),
    ]
    lines = [f"{name:<48}{dollars:>10.2f} $" for name, dollars in rows]
    lines += [
        "",
        f"MongoDB: {one.mongo_writes:,} writes, {one.mongo_reads:,} reads by runs and streams.",
        f"Postgres: {one.postgres_calls:,} calls by chats.",
        f"  {one.postgres_connections} connections at the peak, one an environment; "
        f"db.t4g.micro takes about 80.",
        f"  Beyond: RDS Proxy {price.rds_proxy_month:.2f} $, or a pgbouncer of your own.",
        "",
        "The same orchestration elsewhere, before any compute:",
        f"  AWS durable functions, 8 $ a million operations:  {one.durable_functions:>10.2f} $",
        f"  Step Functions, 25 $ a million transitions:       {one.step_functions:>10.2f} $",
        f"  two small servers that are always on:             {one.always_on:>10.2f} $",
        "",
        f"An idle month: {bill(Load()).aws:.2f} $ beside the stores, "
        f"of which the poller {bill(Load()).poller:.2f} $.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m local cost", description=__doc__)
    for field in fields(Load):
        kind = type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    print(table(Load(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
