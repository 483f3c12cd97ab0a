"""The setup function as CloudFormation sees it: what it asks, hears and finds made."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from lambent.admission.migrate import _LOCK
from lambent.app import platform
from lambent.deploy import is_from_cloudformation
from lambent.errors import ConfigError
from lambent.first_aid import explain
from tests.inbox import Inbox
from tests.secret_keeper import Kept

ROOT = Path(__file__).resolve().parents[2]
EVENTS = ROOT / "tests" / "events"
NOWHERE = {
    "MONGO_URI": "mongodb://u:hunter2@127.0.0.1:1/?serverSelectionTimeoutMS=200",
    "POSTGRES_DSN": "postgresql://me:hunter2@127.0.0.1:1/none",
}


# Another stack over the same stores, with a secret of its own.
OTHER = {
    "StackId": "arn:aws:cloudformation:us-east-1:123456789012:stack/other/0f0f0f0f-c90c-11f0",
    "AdminKeySecret": "arn:aws:secretsmanager:us-east-1:123456789012:secret:other/admin-key-x",
}


class Context:
    """What Lambda tells a function about its invocation, as far as setup asks."""

    def __init__(self, left_s: float) -> None:
        self.left_s = left_s

    def get_remaining_time_in_millis(self) -> int:
        return int(self.left_s * 1000)


class Deployment:
    """The setup function in its environment: Lambda's, CloudFormation's and Secrets Manager's part
    is played here, all the rest is real."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, inbox: Inbox, secrets: Kept) -> None:
        self.inbox, self.secrets, self._monkeypatch = inbox, secrets, monkeypatch
        found = importlib.util.spec_from_file_location("setup", ROOT / "functions/setup/handler.py")
        assert found is not None
        assert found.loader is not None
        self.function = importlib.util.module_from_spec(found)
        found.loader.exec_module(self.function)

    def configure(self, **environ: str) -> None:
        """A new environment with these variables, too."""
        self.end_environment()
        for name, value in environ.items():
            self._monkeypatch.setenv(name, value)

    def end_environment(self) -> None:
        if platform.cache_info().currsize:
            parts, run = platform(), self.function._LOOP.run_until_complete
            run(parts.mongo.close())
            run(parts.postgres.close())
        platform.cache_clear()

    def told(
        self, name: str, *, left_s: float = 300, RequestType: str = "", StackId: str = "",
        **properties: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """What CloudFormation hears of the recorded event `name`."""
        given = json.loads((EVENTS / f"setup_{name}.json").read_text())
        given["RequestType"] = RequestType or given["RequestType"]
        given["StackId"] = StackId or given["StackId"]
        given["ResourceProperties"] |= properties
        self.inbox.answers.clear()
        self.function.handler({**given, "ResponseURL": self.inbox.url}, Context(left_s))
        (told,) = self.inbox.answers
        for field in ("RequestId", "StackId", "LogicalResourceId"):
            assert told[field] == given[field]
        return told

    @property
    def kept_key(self) -> str:
        """The admin key's text, where operators look for it."""
        (text,) = self.secrets.values.values()
        return text


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    inbox = Inbox()
    yield inbox
    inbox.close()


@pytest.fixture
def stores(postgres_dsn: str, mongo_uri: str, mongo_db_name: str) -> dict[str, str]:
    return {"POSTGRES_DSN": postgres_dsn, "MONGO_URI": mongo_uri, "MONGO_DB_NAME": mongo_db_name}


@pytest.fixture
def deployment(
    monkeypatch: pytest.MonkeyPatch, inbox: Inbox, stores: dict[str, str]
) -> Iterator[Deployment]:
    with Kept() as secrets:
        secrets.be_asked(monkeypatch)
        made = Deployment(monkeypatch, inbox, secrets)
        made.configure(**stores)
        yield made
        made.end_environment()
        made.function._LOOP.close()
        secrets.shutdown()


def admin_hashes(dsn: str) -> list[bytes]:
    """The hash of the admin key that is good; no table, no key."""
    with psycopg.connect(dsn) as connection:
        (table,) = connection.execute("SELECT to_regclass('lambent.api_key')").fetchone() or ()
        if table is None:
            return []
        asked = "SELECT secret_hash FROM lambent.api_key WHERE id = 'admin'"
        return [bytes(row[0]) for row in connection.execute(asked)]


def hash_of(key: str) -> bytes:
    return hashlib.sha256(key.rpartition("_")[2].encode()).digest()


def test_a_create_makes_the_key_good_that_it_kept(
    deployment: Deployment, postgres_dsn: str
) -> None:
    told = deployment.told("create")
    assert told["Status"] == "SUCCESS"
    assert deployment.kept_key.startswith("lam_admin_")
    assert admin_hashes(postgres_dsn) == [hash_of(deployment.kept_key)]
    assert deployment.kept_key not in json.dumps(told)


def test_a_key_that_cannot_be_kept_is_never_made_good(
    deployment: Deployment, postgres_dsn: str
) -> None:
    deployment.secrets.refuses = True
    told = deployment.told("create")
    assert (told["Status"], "not authorized" in told["Reason"]) == ("FAILED", True)
    assert admin_hashes(postgres_dsn) == []
    deployment.secrets.refuses = False
    assert deployment.told("create")["Status"] == "SUCCESS"
    assert admin_hashes(postgres_dsn) == [hash_of(deployment.kept_key)]


def test_the_physical_id_never_changes(deployment: Deployment) -> None:
    ids = {deployment.told(name)["PhysicalResourceId"] for name in ("create", "update", "delete")}
    assert ids == {"lambent-stores"}


def test_an_update_leaves_the_key_alone(deployment: Deployment, postgres_dsn: str) -> None:
    deployment.told("create")
    assert deployment.told("update")["Status"] == "SUCCESS"
    assert len(deployment.secrets.writes) == 1
    assert admin_hashes(postgres_dsn) == [hash_of(deployment.kept_key)]


def test_an_update_to_empty_stores_makes_no_key_good_that_nobody_has(
    deployment: Deployment, postgres_dsn: str
) -> None:
    deployment.secrets.refuses = True
    assert deployment.told("update")["Status"] == "FAILED"
    assert admin_hashes(postgres_dsn) == []
    deployment.secrets.refuses = False
    assert deployment.told("update")["Status"] == "SUCCESS"
    assert admin_hashes(postgres_dsn) == [hash_of(deployment.kept_key)]


@pytest.mark.parametrize("ends", ["delete", "update"])
def test_another_stack_over_the_same_stores_leaves_the_first_one_s_key_good(
    deployment: Deployment, postgres_dsn: str, ends: str
) -> None:
    deployment.told("create")
    kept = deployment.kept_key
    told = deployment.told("create", **OTHER)
    assert (told["Status"], "admin key" in told["Reason"]) == ("SUCCESS", True)
    told_instead = deployment.secrets.values[OTHER["AdminKeySecret"]]
    assert "lam_" not in told_instead
    assert told_instead == told["Reason"]
    # As a rollback does, or as its later deploys.
    assert deployment.told(ends, **OTHER)["Status"] == "SUCCESS"
    assert admin_hashes(postgres_dsn) == [hash_of(kept)]
    assert deployment.told("update")["Reason"] == "Done"


def test_a_key_that_somebody_else_makes_meanwhile_is_not_replaced(
    deployment: Deployment, postgres_dsn: str
) -> None:
    theirs = hash_of("Meanwhile0" * 4)

    def make_one() -> None:
        with psycopg.connect(postgres_dsn) as connection:
            made = "('admin', %s, 'theirs', 'admin', '{admin}') ON CONFLICT DO NOTHING"
            into = "INSERT INTO lambent.api_key (id, secret_hash, name, client, scopes) VALUES "
            connection.execute(into + made, (theirs,))

    deployment.secrets.meanwhile = make_one
    told = deployment.told("create")
    assert (told["Status"], "admin key" in told["Reason"]) == ("SUCCESS", True)
    assert admin_hashes(postgres_dsn) == [theirs]
    assert deployment.kept_key == told["Reason"]


def test_a_create_that_is_told_twice_leaves_the_key_that_it_made(
    deployment: Deployment, postgres_dsn: str
) -> None:
    deployment.told("create")
    assert deployment.told("create")["Reason"] == "Done"
    assert admin_hashes(postgres_dsn) == [hash_of(deployment.kept_key)]


def test_a_delete_reaches_for_no_store_unless_asked(deployment: Deployment) -> None:
    deployment.configure(**NOWHERE)
    assert deployment.told("delete")["Status"] == "SUCCESS"


def test_a_delete_with_data_deletes_it(deployment: Deployment, postgres_dsn: str) -> None:
    deployment.told("create")
    assert deployment.told("delete", DataOnDelete="delete")["Status"] == "SUCCESS"
    with psycopg.connect(postgres_dsn) as connection:
        assert connection.execute("SELECT to_regnamespace('lambent')").fetchone() == (None,)


def test_data_that_the_stack_did_not_make_is_kept_and_said_to_be(
    deployment: Deployment, postgres_dsn: str
) -> None:
    deployment.function.handler({"action": "setup"}, Context(300))
    told = deployment.told("delete", DataOnDelete="delete")
    said = "The data was kept: this stack did not make it."
    assert (told["Status"], told["Reason"]) == ("SUCCESS", said)
    assert admin_hashes(postgres_dsn)


def test_a_delete_that_reaches_no_store_fails_so_that_it_can_be_repeated(
    deployment: Deployment,
) -> None:
    deployment.configure(**NOWHERE)
    told = deployment.told("delete", DataOnDelete="delete")
    assert told["Status"] == "FAILED"
    assert "Check its address" in told["Reason"]


def test_a_digest_of_the_settings_tells_none_and_changes_with_any(deployment: Deployment) -> None:
    deployment.configure(**NOWHERE)
    values = ["1", "arm64", "mongodb://me:hunter2@db.example.com/", ""]
    digests = [
        deployment.told("settings", Values=given)["Data"]["Digest"]
        for given in (values, [*values[:3], "DEBUG"], ["2", *values[1:]], values)
    ]
    assert digests[0] == digests[3]  # as a rollback asks
    assert len(set(digests)) == 3
    assert all(re.fullmatch("[0-9a-f]{16}", each) for each in digests)


def test_settings_that_are_given_up_take_no_data_along(
    deployment: Deployment, postgres_dsn: str
) -> None:
    deployment.told("create")
    told = deployment.told("settings", RequestType="Delete")
    assert (told["Status"], told["PhysicalResourceId"]) == ("SUCCESS", "lambent-settings")
    assert admin_hashes(postgres_dsn)


def test_a_store_that_is_away_is_told_in_one_line(deployment: Deployment) -> None:
    deployment.configure(**NOWHERE)
    told = deployment.told("create")
    assert told["Status"] == "FAILED"
    assert "Check its address" in told["Reason"]
    assert "Connection refused" in told["Reason"]
    assert "\n" not in told["Reason"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"POSTGRES_DSN": "postgresql://me:hunter2%zz@db.example.com/x"},
        {"POSTGRES_DSN": "postgresql://me:hun@ter2@db.example.com/x"},
        {"POSTGRES_DSN": "host=db.example.com user=me password=a hunter2"},
        {"MONGO_URI": "mongodb://me:12/hunter2@db.example.com/x"},
    ],
)
def test_of_an_address_that_cannot_be_read_nothing_is_told_but_its_name(
    deployment: Deployment, wrong: dict[str, str]
) -> None:
    deployment.configure(**wrong)
    told = deployment.told("create")
    (name,) = wrong
    assert told["Status"] == "FAILED"
    assert f"configuration is not usable: {name}" in told["Reason"]
    assert "ter2" not in told["Reason"]


def test_fewer_reserved_steps_than_the_poller_keeps_busy_are_refused_before_any_change(
    deployment: Deployment, postgres_dsn: str
) -> None:
    deployment.configure(STEP_CONCURRENCY="5")
    told = deployment.told("create", StepReservedConcurrency="4")
    assert told["Status"] == "FAILED"
    assert "StepReservedConcurrency is 4, but the poller keeps 5" in told["Reason"]
    assert admin_hashes(postgres_dsn) == []
    for enough in ("5", "0"):
        assert deployment.told("create", StepReservedConcurrency=enough)["Status"] == "SUCCESS"


def test_a_right_that_is_missing_is_named_with_what_to_grant(
    deployment: Deployment, postgres_dsn: str
) -> None:
    limited = psycopg.conninfo.make_conninfo(postgres_dsn, user="limited", password="limited")
    with psycopg.connect(postgres_dsn, autocommit=True) as admin:
        admin.execute("CREATE ROLE limited LOGIN PASSWORD 'limited'")
        try:
            deployment.configure(POSTGRES_DSN=limited)
            told = deployment.told("create")
        finally:
            deployment.end_environment()
            admin.execute("DROP ROLE limited")
    assert told["Status"] == "FAILED"
    assert "grant it CREATE on the database" in told["Reason"]
    assert "permission denied" in told["Reason"]


def test_the_answer_is_sent_again_when_its_address_fails(deployment: Deployment) -> None:
    deployment.inbox.failures = 2
    assert deployment.told("update")["Status"] == "SUCCESS"


def test_the_signed_address_is_sent_no_content_type(deployment: Deployment) -> None:
    deployment.told("update")
    assert deployment.inbox.content_types == [""]


def test_a_setup_that_waits_for_another_is_answered_before_the_function_ends(
    deployment: Deployment, postgres_dsn: str
) -> None:
    with psycopg.connect(postgres_dsn, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        told = deployment.told("update", left_s=31)
    assert told["Status"] == "FAILED"
    assert "took too long" in told["Reason"]


def test_a_store_that_takes_calls_and_says_nothing_is_answered_for_too(
    deployment: Deployment,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        deployment.configure(POSTGRES_DSN=f"postgresql://me@127.0.0.1:{port}/x")
        told = deployment.told("create", left_s=31)
    assert told["Status"] == "FAILED"
    assert "took too long" in told["Reason"]


def test_a_person_s_event_is_not_cloudformation_s() -> None:
    assert not is_from_cloudformation(json.loads((EVENTS / "setup.json").read_text()))


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (ConfigError(["MONGO_URI is not set"]), "Change the stack's parameters"),
        (ImportError("No module named 'pydantic_core._pydantic_core'"), "another processor"),
        (TimeoutError(), "took too long"),
    ],
)
def test_what_is_wrong_comes_with_what_to_do(error: Exception, advice: str) -> None:
    assert advice in explain(error)
