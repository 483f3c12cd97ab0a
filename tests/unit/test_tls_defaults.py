"""Which addresses get TLS where they leave it open."""

from __future__ import annotations

from pathlib import Path

import pytest
from certifi import where
from psycopg.conninfo import conninfo_to_dict

from lambent import tls
from lambent.errors import ConfigError
from lambent.settings import load_settings

PEM_END = "-----END CERTIFICATE-----"
STORES = {"MONGO_URI": "mongodb://h", "POSTGRES_DSN": "postgresql://h/d"}


@pytest.mark.parametrize(
    "host",
    ["localhost", "127.0.0.1", "[::1]", "::1", "10.1.2.3", "192.168.0.9", "172.20.0.2", "fd00::1",
     "fe80::1%eth0", "postgres", "host.docker.internal", "db.local", "169.254.1.1"],
)  # fmt: skip
def test_a_host_of_our_own_network_is_local(host: str) -> None:
    assert tls.is_local(host)


@pytest.mark.parametrize(
    "host", ["db.example.com", "8.8.8.8", "2606:4700::1", "x.rds.amazonaws.com"]
)
def test_every_other_host_is_not(host: str) -> None:
    assert not tls.is_local(host)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("mongodb://localhost:27017", {}),
        ("mongodb://u:p%40ss@10.0.0.1,10.0.0.2:27018/db", {}),
        ("mongodb://u:p@db.example.com/x", {"tls": True}),
        ("mongodb://localhost,db.example.com:27018", {"tls": True}),
        ("mongodb://[::1]:27017,[2606:4700::1]:27017/?w=1", {"tls": True}),
        ("mongodb://db.example.com/?tls=false", {}),
        ("mongodb://db.example.com/?SSL=true", {}),
        ("mongodb+srv://db.example.com/x", {}),
    ],
)
def test_mongo_gets_tls_where_its_address_leaves_it_open(uri: str, said: dict[str, bool]) -> None:
    assert tls.mongo_options(uri, "") == said


@pytest.mark.parametrize(
    ("dsn", "mode"),
    [
        ("postgresql://u:p@localhost/d", None),
        ("postgresql://u:p@10.0.0.7:6432/d", None),
        ("host=/var/run/postgresql dbname=d", None),
        ("dbname=d", None),
        ("postgresql://u:p@db.example.com/d", "verify-full"),
        ("host=localhost,db.example.com dbname=d", "verify-full"),
        ("hostaddr=8.8.8.8 dbname=d", "verify-full"),
        ("host=localhost hostaddr=8.8.8.8 dbname=d", "verify-full"),
        ("postgresql://u:p@db.example.com/d?sslmode=disable", "disable"),
    ],
)
def test_postgres_gets_tls_where_its_address_leaves_it_open(
    dsn: str, mode: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "roots.pem").touch()
    monkeypatch.setattr(tls, "_ROOTS", (str(tmp_path / "roots.pem"),))
    assert conninfo_to_dict(tls.postgres_dsn(dsn, "")).get("sslmode") == mode
    monkeypatch.setattr(tls, "_system_roots", lambda: None)
    bare = "require" if mode == "verify-full" else mode
    assert conninfo_to_dict(tls.postgres_dsn(dsn, "")).get("sslmode") == bare


def test_a_bundle_may_be_its_own_text(tmp_path: Path) -> None:
    text = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
    assert Path(tls.bundle(text)).read_text() == text
    assert tls.bundle(text) == tls.bundle(text)
    assert tls.bundle("/opt/ca.pem") == "/opt/ca.pem"


@pytest.mark.parametrize("name", ["MONGO_CA", "POSTGRES_CA"])
def test_certificates_are_a_file_that_is_there_or_whole_text(name: str, tmp_path: Path) -> None:
    own = Path(where())
    text = own.read_text()
    one = text[text.index("-----BEGIN") : text.index(PEM_END) + len(PEM_END)]
    for good in (str(own), one, f"{one}\n{one}"):
        assert getattr(load_settings({**STORES, name: good}), name.lower()) == good
    cut, joined = f"{one}\n{one[:-100]}", one.replace("\n", " ")
    for wrong in (str(tmp_path / "none.pem"), one[:-100], cut, joined, "-----BEGIN", "x" * 5000):
        with pytest.raises(ConfigError, match=f"{name}.*or name a secret: secretsmanager:ID"):
            load_settings({**STORES, name: wrong})


def test_a_key_of_the_model_server_never_goes_out_in_the_open() -> None:
    key = {**STORES, "OLLAMA_API_KEY": "k3y"}
    with pytest.raises(ConfigError) as caught:
        load_settings({**key, "OLLAMA_HOST": "http://models.example.com"})
    assert "https" in str(caught.value.problems)
    assert "k3y" not in str(caught.value.problems)
    for host in ("https://models.example.com", "http://localhost:11434", "http://ollama:11434"):
        load_settings({**key, "OLLAMA_HOST": host})
