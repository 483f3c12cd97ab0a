"""Fetches documents for agents from allowed hosts only, whatever an address claims to be.

The rules, checked for the first address and again after each redirect:

- http and https, without a user name, to a host on the list;
- the list's `example.org` means its ports 80 and 443, `*.example.org` its sub-domains,
  `example.org:8080` that port;
- no private, loopback, link-local or otherwise special network address, unless the list names
  the host with its port;
- the name is resolved once, and the connection goes to the address that was checked, so a name
  that changes its mind in between (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import httpx

from lambent.errors import LambentError

_PORTS: Final = {"http": 80, "https": 443}
_REDIRECTS: Final = {301, 302, 303, 307, 308}
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")


class FetchFailed(LambentError):
    """The document could not be had; the detail says why, in words fit for a reader."""

    code = "fetch_failed"
    title = "A document could not be fetched"


@dataclass(frozen=True, slots=True)
class Document:
    """What was fetched; `url` is where the last redirect led."""

    url: str
    content_type: str
    body: bytes


class WebReader:
    """Reads documents within limits: `limit_bytes` and, redirects included, `limit_s` each."""

    def __init__(
        self,
        allowed_hosts: Sequence[str],
        *,
        limit_bytes: int = 1_000_000,
        limit_s: float = 10.0,
        redirects: int = 5,
    ) -> None:
        self._allowed = tuple(entry.lower() for entry in allowed_hosts)
        self._limit_bytes = limit_bytes
        self._limit_s = limit_s
        self._redirects = redirects

    async def read(self, url: str) -> Document:
        """Raises `FetchFailed`."""
        try:
            async with asyncio.timeout(self._limit_s), self._client() as client:
                return await self._follow(client, httpx.URL(url.strip()))
        except TimeoutError:
            raise FetchFailed(f"took longer than {self._limit_s:g} s") from None
        except httpx.InvalidURL:
            raise FetchFailed("is no valid address") from None
        except httpx.HTTPError as error:
            raise FetchFailed(f"did not answer ({type(error).__name__})") from error

    def _client(self) -> httpx.AsyncClient:
        # A proxy of the environment would resolve names by itself, unchecked.
        return httpx.AsyncClient(
            verify=_tls(), trust_env=False, follow_redirects=False, timeout=self._limit_s
        )

    async def _follow(self, client: httpx.AsyncClient, url: httpx.URL) -> Document:
        for _ in range(self._redirects + 1):
            request = await self._checked_request(client, url)
            answer = await client.send(request, stream=True)
            try:
                target = answer.headers.get("location")
                if answer.status_code in _REDIRECTS and target:
                    url = url.join(target)
                    continue
                return await self._document(answer, url)
            finally:
                await answer.aclose()
        raise FetchFailed(f"redirects more than {self._redirects} times")

    async def _document(self, answer: httpx.Response, url: httpx.URL) -> Document:
        if answer.status_code != 200:
            raise FetchFailed(f"answered with status {answer.status_code}")
        # Asked for as it is: a compressed megabyte could unpack to a thousand.
        if answer.headers.get("content-encoding", "identity").lower() != "identity":
            raise FetchFailed("came compressed, which was not asked for")
        body = bytearray()
        async for piece in answer.aiter_raw():
            body += piece
            if len(body) > self._limit_bytes:
                raise FetchFailed(f"is larger than {self._limit_bytes} bytes")
        return Document(str(url), answer.headers.get("content-type", ""), bytes(body))

    async def _checked_request(self, client: httpx.AsyncClient, url: httpx.URL) -> httpx.Request:
        if url.scheme not in _PORTS or not url.host:
            raise FetchFailed("is no http or https address")
        if url.userinfo:
            raise FetchFailed("carries a user name")
        port = url.port or _PORTS[url.scheme]
        host = url.raw_host.decode("ascii").lower().rstrip(".")
        with_port = f"{host}:{port}" in self._allowed
        if not with_port and not self._is_listed(host, port):
            where = host if port == _PORTS[url.scheme] else f"{host}:{port}"
            raise FetchFailed(f"is on the host {where}, which is not allowed")
        address = await _resolve(host, port)
        if not with_port and not is_public(address):
            raise FetchFailed(f"is on the host {host}, whose network address is not public")
        return client.build_request(
            "GET",
            url.copy_with(host=address),
            headers={
                "host": url.netloc.decode("ascii"),
                "accept-encoding": "identity",
                "user-agent": "lambent",
            },
            extensions={"sni_hostname": host},
        )

    def _is_listed(self, host: str, port: int) -> bool:
        if port not in _PORTS.values():
            return False
        parents = [entry[1:] for entry in self._allowed if entry.startswith("*.")]
        return host in self._allowed or any(host.endswith(parent) for parent in parents)


@lru_cache(maxsize=1)
def _tls() -> ssl.SSLContext:
    # Loading the certificate store takes 30 ms: once for all feeds, and not at a cold start.
    return httpx.create_ssl_context(trust_env=False)


def is_public(address: str) -> bool:
    """Whether an address is on the open internet, seen through what wraps IPv4 into IPv6."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip.sixtofour is not None or ip.teredo is not None or ip in _NAT64:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


async def _resolve(host: str, port: int) -> str:
    """The one address to connect to; where any of a name's is not public, that one."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise FetchFailed(f"is on the host {host}, which cannot be found") from None
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    return next((one for one in addresses if not is_public(one)), addresses[0])
