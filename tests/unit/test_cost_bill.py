"""What the cost calculator makes of its counts and prices; the counts are tested elsewhere."""

from __future__ import annotations

import re
import sys

import pytest

from lambent.metrics import Metric
from local.aws.transform import ROOT, read_template
from local.cost import MINUTES_A_MONTH, Counts, Load, Prices, bill, main, peak_connections, table

EXAMPLE = Load(chats=100_000, runs=20_000, steps=6)
EVERY_MINUTE = round(MINUTES_A_MONTH)


def test_an_idle_platform_costs_its_alarms_and_little_more() -> None:
    idle = bill(Load())
    assert idle.chat_functions == idle.run_functions == idle.data_out == 0
    assert idle.poller < 0.10
    assert idle.poller_reads == MINUTES_A_MONTH
    assert idle.aws - idle.watching < 1


def test_twice_the_load_is_twice_the_functions() -> None:
    one, two = bill(Load(chats=1000, runs=500)), bill(Load(chats=2000, runs=1000))
    assert two.chat_functions == pytest.approx(2 * one.chat_functions)
    assert two.run_functions == pytest.approx(2 * one.run_functions)
    assert two.mongo_writes == 2 * one.mongo_writes


def test_a_poller_with_something_due_each_minute_is_paid_for_all_of_it() -> None:
    month = Load(poller_tick_s=60.0)  # every tick stays until the next one
    busy = bill(Load(timers=EVERY_MINUTE))
    assert busy.poller == pytest.approx(bill(month).poller)
    assert busy.poller > 100 * bill(Load()).poller
    assert busy.poller_reads > 10 * 60 * MINUTES_A_MONTH
    hourly = bill(Load(timers=730))
    assert bill(Load()).poller < hourly.poller < busy.poller / 20


def test_a_poller_stays_with_runs_that_a_tick_meets_in_work() -> None:
    brief, long = (bill(Load(runs=1000, waits=0, steps=steps)).poller_awake_s for steps in (1, 600))
    assert brief < 1000 * 0.1
    assert 1000 * 560 < long <= 1000 * 601


def test_connections_grow_with_chats_and_their_seconds() -> None:
    assert peak_connections(Load()) == 5  # an environment of each function
    few, many = peak_connections(Load(chats=100_000)), peak_connections(Load(chats=100_000_000))
    assert few < 20
    assert many > 100_000_000 * 8 / (730 * 3600) * 5
    assert peak_connections(Load(chats=100_000_000, chat_s=16)) > 1.9 * many


def test_postgres_is_told_with_and_without_a_pooler() -> None:
    small, large, huge = (bill(Load(chats=n)).postgres for n in (10**5, 10**8, 10**9))
    assert small.direct is Prices().postgres[0]
    assert small.month < small.pgbouncer_month < small.rds_proxy_month
    assert large.direct is not None
    assert large.direct.connections >= large.connections > 80
    assert large.direct.month > large.rds_proxy_month
    assert huge.direct is huge.direct_month is None
    assert huge.month == huge.rds_proxy_month
    assert "no server takes so many" in table(Load(chats=10**9))


def test_answers_are_paid_for_by_their_tokens() -> None:
    short, long = bill(Load(chats=1000)), bill(Load(chats=1000, chat_tokens=800))
    assert long.data_out == pytest.approx(2 * short.data_out)
    # Beyond 6 MB of an answer its streaming is paid for, too.
    tokens = round(2 * 6e6 / Counts().token_bytes)
    endless, prices = bill(Load(chats=1000, chat_tokens=tokens)), Prices()
    assert endless.data_out == pytest.approx(12 * prices.out_gb + 6 * prices.streamed_gb)


def test_there_are_two_architectures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arm, intel = (bill(Load(chats=1000, architecture=one)) for one in ("arm64", "x86_64"))
    assert arm.chat_functions < intel.chat_functions
    with pytest.raises(ValueError, match="sparc"):
        bill(Load(architecture="sparc"))
    monkeypatch.setattr(sys, "argv", ["cost", "--architecture", "sparc"])
    with pytest.raises(SystemExit):
        main()
    assert "arm64" in capsys.readouterr().err


def test_the_alarms_and_metrics_that_are_paid_for_are_all_there_are() -> None:
    alarms = [body["Properties"] for body in read_template()["Resources"].values()
              if body["Type"] == "AWS::CloudWatch::Alarm"]  # fmt: skip
    # One that watches several metrics is paid for each.
    paid = [sum("MetricStat" in one for one in alarm.get("Metrics", ())) or 1 for alarm in alarms]
    assert Load().alarms == sum(paid)
    assert Load().custom_metrics == len(Metric)


def test_the_readme_shows_what_the_calculator_says() -> None:
    readme = (ROOT / "README.md").read_text()
    assert (
        f"```\n$ python -m local cost --chats 100000 --runs 20000\n{table(EXAMPLE)}\n```" in readme
    )


def test_the_numbers_in_the_readme_s_words_are_the_calculator_s() -> None:
    readme = " ".join((ROOT / "README.md").read_text().split())
    awake = bill(Load(timers=EVERY_MINUTE)).poller
    assert f"a schedule of each minute keeps the poller awake for ${awake:.2f}" in readme
    large = bill(Load(chats=100_000_000))
    assert f"a hundred million chats, {large.postgres.connections:,} connections" in readme
    calls = large.postgres_calls / MINUTES_A_MONTH / 60
    assert f"(${large.postgres.rds_proxy_month:.2f}), if it is up to the {calls:.0f}" in readme
    counted = re.search(r"a run (\d+) writes and (\d+) read beside its steps", readme)
    assert counted is not None
    count = Counts()
    assert [int(one) for one in counted.groups()] == [count.run_mongo_writes, count.run_mongo_reads]
    assert f"{count.awake_second_mongo_reads:g} reads a second while it stays" in readme


def test_the_table_names_the_peers_prices() -> None:
    shown = table(Load(runs=1_000_000, steps=1, waits=0))
    assert "16.00 $" in shown  # two durable operations a run
    assert "50.00 $" in shown  # two transitions a run
