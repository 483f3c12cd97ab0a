"""Secrets that settings only name, read over AWS's protocol, and read again once refused."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lambent.app import Platform
from lambent.errors import ConfigError, StoreUnavailable
from lambent.secret_references import forget
from lambent.settings import load_settings, look_up_again
from tests.secret_keeper import Kept


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    forget()
    with Kept() as server:
        server.be_asked(monkeypatch)
        monkeypatch.setenv("MONGO_URI", "mongodb://localhost")
        yield server
        server.shutdown()
    forget()


def test_a_reference_is_read_once_an_environment_and_again_on_request(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.values = {"stores": '{"dsn": "postgresql://one/d"}', "/prod/ollama": "k1"}
    monkeypatch.setenv("POSTGRES_DSN", "secretsmanager:stores#dsn")
    monkeypatch.setenv("OLLAMA_API_KEY", "ssm:/prod/ollama")
    for _ in range(2):
        settings = load_settings()
        assert settings.postgres_dsn == "postgresql://one/d"
        assert settings.ollama_api_key == "k1"
    assert sorted(kept.reads) == ["/prod/ollama", "stores"]
    kept.values["/prod/ollama"] = "k2"
    assert look_up_again("OLLAMA_API_KEY") == "k2"
    assert look_up_again("MONGO_URI") is None


def test_a_reference_to_nothing_says_so_in_one_line(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTGRES_DSN", "ssm:/prod/absent")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    (problem,) = caught.value.problems
    assert problem == (
        "POSTGRES_DSN: ssm:/prod/absent cannot be read: "
        "there is no such secret in this account and region"
    )


async def test_a_password_that_was_rotated_where_it_is_kept_heals_the_platform(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, postgres_dsn: str
) -> None:
    kept.values["dsn"] = postgres_dsn.replace("postgres:", "postgres:not", 1)
    monkeypatch.setenv("POSTGRES_DSN", "ssm:dsn")
    parts = Platform(load_settings())
    with pytest.raises(StoreUnavailable):
        await parts.postgres.ping()
    kept.values["dsn"] = postgres_dsn
    other = Platform(load_settings())
    await other.postgres.ping()
    await other.postgres.close()
    assert kept.reads == ["dsn"] * 3
