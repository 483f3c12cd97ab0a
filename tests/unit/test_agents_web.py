"""`WebReader` fetches from allowed hosts only, whatever an address claims to be."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from lambent.agents.web import FetchFailed, WebReader, is_public
from tests.unit.chat_site import serving

Answer = Callable[[str], tuple[int, dict[str, str], bytes]]


@asynccontextmanager
async def pages(answer: Answer) -> AsyncIterator[str]:
    """A site that answers each path as `answer(path)` says."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        status, headers, body = answer(scope["path"])
        raw = [(k.encode(), v.encode()) for k, v in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    async with serving(app) as url:
        yield url


def listed(url: str) -> str:
    return url.removeprefix("http://")


async def test_a_listed_host_with_its_port_is_read() -> None:
    async with pages(lambda path: (200, {"content-type": "text/x"}, b"hi")) as url:
        document = await WebReader([listed(url)]).read(f"{url}/feed")
    assert (document.url, document.content_type, document.body) == (f"{url}/feed", "text/x", b"hi")


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("file:///etc/passwd", "no http"),
        ("ftp://example.org/", "no http"),
        ("feed", "no http"),
        ("http://", "no http"),
        ("http://[::1", "no valid address"),
        ("http://user:pass@example.org/", "user name"),
        ("http://elsewhere.org/", "not allowed"),
        ("http://example.org.evil.net/", "not allowed"),
        ("http://evilexample.org/", "not allowed"),
        ("http://example.org:8080/", "host example.org:8080, which is not allowed"),
        ("http://localhost/", "not public"),
        ("http://127.0.0.1/", "not public"),
        ("http://2130706433/", "not"),
        ("http://[::1]/", "not"),
        ("http://[::ffff:127.0.0.1]/", "not"),
        ("http://169.254.169.254/latest/meta-data", "not public"),
        ("http://nowhere.invalid/", "cannot be found"),
    ],
)
async def test_what_may_not_be_read_is_refused_with_the_reason(address: str, why: str) -> None:
    allowed = [
        "example.org", "localhost", "127.0.0.1", "169.254.169.254", "nowhere.invalid",
        "2130706433", "::1",
    ]  # fmt: skip
    with pytest.raises(FetchFailed, match=why):
        await WebReader(allowed).read(address)


async def test_the_rules_hold_again_after_each_redirect() -> None:
    targets: list[str] = []
    async with (
        pages(lambda path: (200, {}, b"inner")) as inner,
        pages(lambda path: (302, {"location": targets[0]}, b"")) as outer,
    ):
        targets.append(f"{inner}/x")
        with pytest.raises(FetchFailed, match="not allowed"):
            await WebReader([listed(outer)]).read(outer)
        document = await WebReader([listed(outer), listed(inner)]).read(outer)
    assert document.url == f"{inner}/x"


async def test_redirects_come_to_an_end() -> None:
    async with pages(lambda path: (302, {"location": "/again"}, b"")) as url:
        with pytest.raises(FetchFailed, match="redirects more than 5 times"):
            await WebReader([listed(url)]).read(url)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((404, {}, b""), "status 404"),
        ((200, {"content-encoding": "gzip"}, b"x"), "compressed"),
        ((200, {}, b"x" * 2000), "larger than 1000"),
    ],
)
async def test_what_is_not_fit_to_be_read_is_refused(
    answer: tuple[int, dict[str, str], bytes], why: str
) -> None:
    async with pages(lambda path: answer) as url:
        with pytest.raises(FetchFailed, match=why):
            await WebReader([listed(url)], limit_bytes=1000).read(url)


async def test_a_silent_host_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with asyncio.timeout(30):
            with pytest.raises(FetchFailed, match=r"longer than 0\.2 s"):
                await WebReader([listed(url)], limit_s=0.2).read(url)


async def test_a_name_with_one_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def both(*args: Any, **kwargs: Any) -> list[Any]:
        return [(0, 0, 0, "", (ip, 80)) for ip in ("93.184.216.34", "10.0.0.1")]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", both)
    with pytest.raises(FetchFailed, match="not public"):
        await WebReader(["*.example.org"]).read("http://feeds.example.org/")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("fd00::1", False),
        ("fe80::1", False),
        ("fd00:ec2::254", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::a00:1", False),
        ("2002:a00:1::", False),
    ],
)
def test_only_addresses_of_the_open_internet_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public
