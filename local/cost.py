"""Says what a month costs: `python -m local cost --chats 100000 --runs 20000 --steps 6`.

Prices are AWS's list prices of us-east-1, without free tiers, as of November 2026; each stands
below once, with its unit. What the platform does for a chat, a step, a tick is counted by
tests/aws/test_cost_counts.py, not assumed.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, fields

HOURS_A_MONTH = 730.0
MINUTES_A_MONTH = HOURS_A_MONTH * 60
_MINUTE_S = 60.0
_FUNCTIONS = 5  # one environment of each holds a connection, however little there is to do


@dataclass(frozen=True, slots=True)
class Server:
    """A Postgres that is rented."""

    name: str
    connections: int  # what is left of them for functions
    month: float


@dataclass(frozen=True, slots=True)
class Prices:
    """US dollars."""

    lambda_request: float = 0.20e-6
    lambda_gb_s_arm64: float = 0.0000133334
    lambda_gb_s_x86_64: float = 0.0000166667
    streamed_gb: float = 0.008  # beyond the first 6 MB of each answer
    out_gb: float = 0.09  # to the internet
    log_gb: float = 0.50
    alarm_month: float = 0.10
    metric_month: float = 0.30
    secret_month: float = 0.40
    mongo_month: float = 57.0  # the smallest dedicated cluster; a shared one is cheaper
    postgres: tuple[Server, ...] = (
        Server("db.t4g.micro", 80, 12.0),
        Server("db.t4g.small", 190, 24.0),
        Server("db.t4g.medium", 400, 48.0),
        Server("db.t4g.large", 850, 95.0),
        Server("db.r6g.large", 1700, 165.0),
        Server("db.r6g.xlarge", 3400, 330.0),
        Server("db.r6g.2xlarge", 4900, 660.0),  # RDS lets none have more than 5,000
    )
    rds_proxy_month: float = 21.9  # two vCPUs at least
    pgbouncer_month: float = 7.2  # a task of a quarter of a vCPU and 0.5 GB on Fargate, arm64
    durable_operation: float = 8e-6
    state_transition: float = 25e-6
    server_month: float = 28.8  # two tasks of half a vCPU and 1 GB on Fargate, arm64

    def gb_s(self, architecture: str) -> float:
        """Of a function's memory and time. Raises `ValueError`."""
        match architecture:
            case "arm64":
                return self.lambda_gb_s_arm64
            case "x86_64":
                return self.lambda_gb_s_x86_64
        raise ValueError(f"no function runs on {architecture!r}: arm64 or x86_64")


@dataclass(frozen=True, slots=True)
class Counts:
    """What the platform does; held against the running code by a test."""

    chat_invocations: float = 1
    chat_postgres_calls: float = 3  # admit, the first token's verdict, finish
    chat_second_postgres_calls: float = 1  # what was used so far is booked
    chat_mongo_writes: float = 4  # a stream's beginning and end
    chat_second_mongo_writes: float = 5  # its frames
    chat_second_mongo_reads: float = 1.5  # whether somebody stops it
    token_bytes: float = 40  # of a stream's frame with one token, without HTTP's chunk
    step_mongo_writes: float = 1  # the checkpoint
    run_mongo_writes: float = 6  # from its insert to its last settle, without its steps
    run_mongo_reads: float = 1
    run_invocations: float = 2  # the gateway's request and one slice; waits add one each
    log_bytes: float = 1000  # an invocation, with Lambda's own lines
    tick_mongo_reads: float = 1  # of a poller that finds nothing due within its minute
    awake_second_mongo_reads: float = 18  # of one that stays: its looks at every kind
    awake_after_s: float = 7.0  # a poller stays after the last due instant, to see it taken


@dataclass(frozen=True, slots=True)
class Load:
    """One month."""

    chats: int = 0
    chat_s: float = 8.0
    chat_tokens: int = 400
    runs: int = 0
    steps: int = 6
    step_s: float = 1.0
    waits: int = 1  # of each run, ended by an event
    timers: int = 0  # ticks of schedules, sleeps, time limits and retries that come due
    architecture: str = "arm64"
    memory_gb: float = 0.5
    small_memory_gb: float = 0.25
    custom_metrics: int = 27  # all there are; one that is not written in an hour costs nothing
    alarms: int = 22  # metrics that are watched: a share is two
    poller_tick_s: float = 0.25  # billed for a tick that finds nothing
    peak_factor: float = 5.0  # the busiest minutes against the month's average

    @property
    def run_s(self) -> float:
        """How long a run's functions work on it."""
        return self.steps * self.step_s

    @property
    def slices(self) -> int:
        """How often a run is taken up."""
        return 1 + self.waits


@dataclass(frozen=True, slots=True)
class Postgres:
    """Connections at the peak, and what the server costs in each way to have them. None: no way."""

    connections: int
    direct: Server | None
    pgbouncer_month: float
    rds_proxy_month: float

    @property
    def direct_month(self) -> float | None:
        return None if self.direct is None else self.direct.month

    @property
    def month(self) -> float:
        """Without a pooler where one server takes them all, else with RDS Proxy."""
        return self.rds_proxy_month if self.direct is None else self.direct.month


@dataclass(frozen=True, slots=True)
class Bill:
    """US dollars a month, and what is not money: connections, reads, writes, calls."""

    chat_functions: float
    run_functions: float
    poller: float
    poller_awake_s: float
    data_out: float
    logs: float
    watching: float
    secrets: float
    mongo: float
    postgres: Postgres
    postgres_calls: int  # by chats
    mongo_writes: int
    mongo_reads: int  # by runs and streams
    poller_reads: int
    durable_functions: float
    step_functions: float
    always_on: float

    @property
    def aws(self) -> float:
        """What AWS asks for beside the stores."""
        return sum((self.chat_functions, self.run_functions, self.poller, self.data_out,
                    self.logs, self.watching, self.secrets))  # fmt: skip

    @property
    def total(self) -> float:
        return self.aws + self.mongo + self.postgres.month


def bill(load: Load, *, prices: Prices | None = None, counts: Counts | None = None) -> Bill:
    """The month's bill; a pure function of its arguments. Raises `ValueError`."""
    price, count = prices or Prices(), counts or Counts()
    gb_s = price.gb_s(load.architecture)
    invocations = load.chats * count.chat_invocations
    run_invocations = load.runs * (count.run_invocations + load.waits)
    chats_s = load.chats * load.chat_s
    awake_s = poller_awake_s(load, count)
    ticks_s = (MINUTES_A_MONTH - awake_s / _MINUTE_S) * load.poller_tick_s + awake_s
    requests = invocations + run_invocations + MINUTES_A_MONTH
    operations = load.runs * (load.steps + load.waits + 1)
    run_gb_s = load.runs * load.run_s * load.memory_gb
    return Bill(
        chat_functions=invocations * price.lambda_request + chats_s * load.memory_gb * gb_s,
        run_functions=run_invocations * price.lambda_request + run_gb_s * gb_s,
        poller=MINUTES_A_MONTH * price.lambda_request + ticks_s * load.small_memory_gb * gb_s,
        poller_awake_s=awake_s,
        data_out=_data_out(load, price, count),
        logs=requests * count.log_bytes / 1e9 * price.log_gb,
        watching=load.alarms * price.alarm_month + load.custom_metrics * price.metric_month,
        secrets=price.secret_month,
        mongo=price.mongo_month,
        postgres=_postgres(peak_connections(load), price),
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
        poller_reads=round(
            MINUTES_A_MONTH * count.tick_mongo_reads + awake_s * count.awake_second_mongo_reads
        ),
        durable_functions=operations * price.durable_operation,
        step_functions=operations * price.state_transition,
        always_on=price.server_month,
    )


def poller_awake_s(load: Load, count: Counts) -> float:
    """For how long of the month a poller stays after its tick; at most all of it.

    For what comes due by time it stays from the tick of that minute on: at most a minute, and a
    moment after. What was nudged for, a tick only meets in work: then it stays until that is done.
    """
    slice_s = load.run_s / load.slices + 1.0
    # The chance that a tick falls into it, and the half of it that is left then, on the average.
    met_s = slice_s**2 / 2 / _MINUTE_S if slice_s < _MINUTE_S else slice_s - _MINUTE_S / 2
    timers_s = load.timers * (_MINUTE_S + count.awake_after_s)
    return min(MINUTES_A_MONTH * _MINUTE_S, timers_s + load.runs * load.slices * met_s)


def peak_connections(load: Load) -> int:
    """Environments at once in the busiest minutes, each with its one connection (Little's law)."""
    busy_s = load.chats * load.chat_s + load.runs * load.run_s
    at_once = busy_s / (HOURS_A_MONTH * 3600) * load.peak_factor
    # Arrivals come in clumps: three standard deviations of a Poisson's above its mean.
    return _FUNCTIONS + math.ceil(at_once + 3 * math.sqrt(at_once))


def _postgres(connections: int, price: Prices) -> Postgres:
    smallest = price.postgres[0]
    direct = next((one for one in price.postgres if one.connections >= connections), None)
    return Postgres(
        connections=connections,
        direct=direct,
        # One transaction lasts a millisecond: behind a pooler the smallest server has enough.
        pgbouncer_month=smallest.month + price.pgbouncer_month,
        rds_proxy_month=smallest.month + price.rds_proxy_month,
    )


def _data_out(load: Load, price: Prices, count: Counts) -> float:
    answer_bytes = load.chat_tokens * count.token_bytes
    beyond_bytes = max(0.0, answer_bytes - 6e6)
    return load.chats / 1e9 * (answer_bytes * price.out_gb + beyond_bytes * price.streamed_gb)


def table(load: Load, *, prices: Prices | None = None) -> str:
    """The bill for people."""
    price = prices or Prices()
    one = bill(load, prices=price)
    awake = f"{one.poller_awake_s / (MINUTES_A_MONTH * _MINUTE_S):.0%}"
    rows = [
        (f"chat: {load.chats:,} chats of {load.chat_s:g} s", one.chat_functions),
        (f"runs: {load.runs:,} of {load.steps} steps of {load.step_s:g} s", one.run_functions),
        (f"poller, each minute, awake {awake} of the time", one.poller),
        (f"answers of {load.chat_tokens} tokens, to the internet", one.data_out),
        ("logs", one.logs),
        (f"{load.alarms} alarms, {load.custom_metrics} metrics", one.watching),
        ("the admin key's secret", one.secrets),
        ("AWS, beside the stores", one.aws),
        ("MongoDB, the smallest dedicated cluster", one.mongo),
        ("Postgres", one.postgres.month),
        ("in all", one.total),
    ]
    lines = [f"{name:<48}{dollars:>10.2f} $" for name, dollars in rows]
    lines += [
        "",
        f"MongoDB: {one.mongo_writes:,} writes, {one.mongo_reads:,} reads by runs and streams,",
        f"  {one.poller_reads:,} reads by the poller.",
        f"Postgres: {one.postgres_calls:,} calls by chats; {one.postgres.connections:,} connections"
        " at the peak, one an environment.",
        *_ways(one.postgres, price),
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


def _ways(postgres: Postgres, price: Prices) -> list[str]:
    direct, smallest = postgres.direct, price.postgres[0].name
    without = f"{direct.name}, {direct.connections:,}" if direct else "no server takes so many"
    month = "" if direct is None else f"{direct.month:>10.2f} $"
    return [
        f"  {f'without a pooler: {without}':<46}{month}".rstrip(),
        f"  {f'{smallest} with a pgbouncer of your own':<46}{postgres.pgbouncer_month:>10.2f} $",
        f"  {f'{smallest} with RDS Proxy':<46}{postgres.rds_proxy_month:>10.2f} $",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m local cost", description=__doc__)
    for field in fields(Load):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=type(field.default),
            default=field.default,
            choices=("arm64", "x86_64") if field.name == "architecture" else None,
        )
    print(table(Load(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
