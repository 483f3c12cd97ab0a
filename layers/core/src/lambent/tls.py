"""Decides which stores are spoken to over TLS, and by whose certificates they are known.

A host that others could listen in on the way to gets TLS unless its address says otherwise. Local
are this machine, private and link-local addresses, names without a dot (those of a container's
neighbours) and names under `local`, `localhost` and `internal`: there a certificate is rare, and
who has one says so in the address.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import ssl
import tempfile
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from lambent.errors import ConfigError

_LOCAL_ZONES: Final = (".local", ".localhost", ".internal")
# Where Lambda's images and the usual distributions keep what OpenSSL trusts.
_ROOTS: Final = (
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/cert.pem",
)
_PEM: Final = "-----BEGIN"
_NO_DSN: Final = (
    "POSTGRES_DSN cannot be read: quote a value with blanks ('...'), percent-encode what is "
    "special in user and password of an address"
)


def is_local(host: str) -> bool:
    """Whether nobody outside our own network is on the way to this host."""
    name = host.strip("[]").partition("%")[0].rstrip(".").lower()
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return "." not in name or name.endswith(_LOCAL_ZONES)
    return address.is_private or address.is_loopback or address.is_link_local


def mongo_options(uri: str, ca: str) -> dict[str, Any]:
    """What the driver is told beside the address; `ca`: see `bundle`."""
    options: dict[str, Any] = {"tlsCAFile": bundle(ca)} if ca else {}
    named = {key.lower() for key, _ in parse_qsl(uri.partition("?")[2], keep_blank_values=True)}
    settled = named & {"tls", "ssl"} or uri.startswith("mongodb+srv:")  # srv means TLS
    if not settled and (ca or not all(is_local(host) for host in _mongo_hosts(uri))):
        options["tls"] = True
    return options


def postgres_dsn(dsn: str, ca: str) -> str:
    """The address with what it leaves open about TLS; `ca`: see `bundle`.

    The server's certificate is verified by name wherever there is something to verify it by: the
    given bundle, or else the system's roots. Only without either it is `require`, which keeps out
    who listens but not who answers in the server's place. Raises `ConfigError`.
    """
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict, make_conninfo

    try:
        parts = conninfo_to_dict(dsn)
    except ProgrammingError:  # not chained: libpq quotes what it stumbled over, a password mostly
        raise ConfigError(_NO_DSN) from None
    # Both: the one may name what the other leads to.
    hosts = f"{parts.get('host', '')},{parts.get('hostaddr', '')}".split(",")
    # libpq knows a socket's folder by its first character; no host at all is such a socket.
    remote = [host for host in hosts if host and host[0] not in "/@" and not is_local(host)]
    if "sslmode" in parts or not (remote or ca):
        return make_conninfo(dsn, sslrootcert=bundle(ca)) if ca else dsn
    roots = bundle(ca) if ca else _system_roots()
    if roots is None:
        return make_conninfo(dsn, sslmode="require")
    return make_conninfo(dsn, sslmode="verify-full", sslrootcert=roots)


def bundle(ca: str) -> str:
    """The path of a bundle that was given as a path, or as the PEM text itself."""
    if not ca.lstrip().startswith(_PEM):
        return ca
    name = hashlib.sha256(ca.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"lambent-ca-{os.getuid()}-{name}.pem"
    if not path.exists() or path.read_text() != ca:
        # Written aside and moved: another process of this machine may be reading it.
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as new:
            new.write(ca)
        Path(new.name).replace(path)
    return str(path)


def certificates(value: str) -> str:
    """A bundle as `bundle` takes it; ValueError for one that no connection could be made with.

    A function's environment holds 4 KB in all, and so does a parameter of CloudFormation: more than
    a certificate or two is cut off or refused on the way, and has to be named instead.
    """
    otherwise = (
        "put the bundle beside your agents (/opt/python/lambent_agents/NAME.pem in the function), "
        "or name a secret: secretsmanager:ID (up to 64 KB) or ssm:NAME (up to 8 KB)"
    )
    try:
        if value.startswith(_PEM):
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=value)
        else:  # not read: the global bundle of RDS would cost each start 20 ms
            Path(value).open("rb").close()
    except (OSError, ValueError):
        what = "whole PEM text (with its line ends) or a file of it in this function"
        raise ValueError(f"must be {what}: {otherwise}") from None
    return value


def _mongo_hosts(uri: str) -> list[str]:
    netloc = urlsplit(uri.replace(",", "%2C")).netloc.rpartition("@")[2]
    hosts = netloc.replace("%2C", ",").split(",")
    return [
        host.partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        for host in hosts
        if not host.lower().endswith(".sock")
    ]


def _system_roots() -> str | None:
    found = (ssl.get_default_verify_paths().cafile, *_ROOTS)
    return next((path for path in found if path and Path(path).is_file()), None)
