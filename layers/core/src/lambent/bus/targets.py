"""Decides which addresses a webhook may reach, at the moment of connecting to them."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import urlsplit

import httpcore

from lambent.errors import Unprocessable

# Ranges that carry another address inside, or that `is_global` calls public on some versions.
_REFUSED: Final = tuple(
    ipaddress.ip_network(one)
    for one in (
        *("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "192.88.99.0/24"),
        *("fec0::/10", "3fff::/20"),
    )
)
Socket = tuple[Any, ...]


class TargetRefused(httpcore.ConnectError):
    """The name leads to an address inside the network; it will not help to try again."""


def check_url(url: str, *, allow_loopback: bool) -> str:
    """The address of a webhook, if its form is acceptable; raises `Unprocessable`.

    Only the form: where the name leads is checked at each connect, for it may change at any time.
    """
    complaint = ""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise _unacceptable("is not a URL") from None
    host = parts.hostname or ""
    if not host or parts.scheme not in (("https", "http") if allow_loopback else ("https",)):
        complaint = "must be an https address"
    elif parts.username or parts.password:
        complaint = "must not contain credentials"
    elif parts.fragment or len(url) > 2048 or not url.isascii() or not url.isprintable():
        complaint = "must be plain ASCII, without a fragment, of 2048 characters at most"
    elif _is_literal(host) and not may_reach(host, allow_loopback=allow_loopback):
        complaint = "leads to a private, loopback or link-local address"
    if complaint:
        raise _unacceptable(complaint)
    return url


def may_reach(address: str, *, allow_loopback: bool) -> bool:
    """Whether this IP address is one of the public internet (or loopback, where allowed)."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_loopback:
        return allow_loopback
    refused = ip.is_multicast or ip.is_reserved or ip.is_link_local or ip.is_unspecified
    return ip.is_global and not refused and not any(ip in network for network in _REFUSED)


class PublicNetwork(httpcore.AsyncNetworkBackend):
    """Connects to public addresses only.

    The name is resolved once, every answer is checked, and the connection goes to the very
    address that was checked: a name that changes in between (DNS rebinding) gains nothing. TLS
    and the Host header still carry the name.
    """

    def __init__(self, *, allow_loopback: bool) -> None:
        self._allow_loopback = allow_loopback
        self._sockets = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Socket] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._resolve(host, port)
        for address in addresses:
            # One inner address among public ones is no accident.
            if not may_reach(address, allow_loopback=self._allow_loopback):
                raise TargetRefused(f"{host} leads to an address that webhooks may not reach")
        failure: Exception | None = None
        for address in addresses[:3]:
            try:
                return await self._sockets.connect_tcp(address, port, timeout=timeout)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure or httpcore.ConnectError(f"{host} has no address")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[Socket] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        raise TargetRefused("no webhook leads to a local socket")

    async def sleep(self, seconds: float) -> None:
        await self._sockets.sleep(seconds)

    async def _resolve(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved") from error
        return list(dict.fromkeys(str(one[4][0]) for one in found))


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _unacceptable(complaint: str) -> Unprocessable:
    problem = {"field": "url", "message": complaint}
    return Unprocessable(f"The webhook's url {complaint}.", fields={"errors": [problem]})
