"""TLS to stores: by default where others could listen, and only with those that are vouched for."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from lambent.clock import SystemClock
from lambent.errors import StoreUnavailable
from lambent.mongo import Mongo
from lambent.postgres import Postgres
from local.services.process import free_port
from tests.store.secure_services import Certificate, GuardedMongo, tls_in_front

CLOCK = SystemClock()
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate.make(tmp_path_factory.mktemp("certificate"))


@pytest.fixture
async def remote_dsn(postgres_dsn: str, certificate: Certificate) -> AsyncIterator[str]:
    """The real Postgres as a host somewhere else, behind TLS."""
    port = int(str(conninfo_to_dict(postgres_dsn)["port"]))
    async with tls_in_front(port, certificate) as front:
        yield make_conninfo(postgres_dsn, host="db.example.com", hostaddr="127.0.0.1", port=front)


async def test_postgres_elsewhere_is_spoken_to_over_tls_and_verified(
    remote_dsn: str, certificate: Certificate
) -> None:
    for ca in (str(certificate.path), certificate.path.read_text()):
        postgres = Postgres(remote_dsn, clock=CLOCK, ca=ca)
        async with postgres.session() as connection:
            assert connection.pgconn.ssl_in_use
        await postgres.ping()
        await postgres.close()


async def test_postgres_elsewhere_that_nobody_vouches_for_is_refused(remote_dsn: str) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        await Postgres(remote_dsn, clock=CLOCK).ping()
    assert "certificate" in str(caught.value.__cause__)


async def test_postgres_under_another_name_than_its_own_is_refused(
    remote_dsn: str, certificate: Certificate
) -> None:
    other = make_conninfo(remote_dsn, host="other.example.com")
    with pytest.raises(StoreUnavailable) as caught:
        await Postgres(other, clock=CLOCK, ca=str(certificate.path)).ping()
    assert "other.example.com" in str(caught.value.__cause__)


async def test_an_address_that_says_how_gets_its_way(remote_dsn: str) -> None:
    postgres = Postgres(make_conninfo(remote_dsn, sslmode="require"), clock=CLOCK)
    await postgres.ping()
    await postgres.close()


async def test_mongo_is_verified_by_the_given_certificates(
    tmp_path: Path, certificate: Certificate
) -> None:
    server = GuardedMongo(tmp_path, free_port())
    flags = ("--tls-cert-file", str(certificate.path), "--tls-key-file", str(certificate.key))
    with server.running(*flags):
        uri = f"mongodb://127.0.0.1:{server.port}"
        store = Mongo(uri, "test", clock=CLOCK, ca=certificate.path.read_text())
        await store.ping()
        await store.close()
