"""Webhooks against a real receiver: signatures, retries, dead letters, refused targets."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise

import httpcore
import pytest
import pytest_asyncio

from lambent.bus import sending
from lambent.bus.sending import BACKOFF_S, MAX_ATTEMPTS, Sent, WebhookSender
from lambent.bus.targets import PublicNetwork, TargetRefused, check_url, may_reach
from lambent.bus.transitions import DELIVERIES, DeliveryStatus, WebhookStatus
from lambent.bus.webhooks import WebhookChange, type_matches
from lambent.dispatch import Work
from lambent.due import DueDocuments
from lambent.errors import Conflict, NotFound, Unprocessable
from lambent.mongo import Document
from lambent.poller.generation import PollerBell
from tests.store.bus_world import BusWorld, placed


@dataclass
class Receiver:
    """An HTTP server that notes each call and answers as told."""

    answer: bytes = b"HTTP/1.1 204 No Content\r\n\r\n"
    stalls: bool = False
    calls: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = [line.split(": ", 1) for line in head.split("\r\n")[1:] if line]
        headers = {name.lower(): value for name, value in lines}
        body = await reader.readexactly(int(headers["content-length"]))
        self.calls.append((headers, body))
        writer.write(self.answer)
        if self.stalls:  # until the caller leaves
            await reader.read()
        writer.close()


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook"
    yield made
    server.close()
    await server.wait_closed()


@pytest_asyncio.fixture
async def world(mongo_uri: str, mongo_db_name: str) -> AsyncIterator[BusWorld]:
    made = await BusWorld.make(mongo_uri, mongo_db_name)
    yield made
    await made.mongo.close()


async def send(world: BusWorld, *, allow_loopback: bool = True) -> list[Sent]:
    deliveries = DueDocuments(world.mongo, DELIVERIES, clock=world.clock)
    sender = WebhookSender(world.mongo, clock=world.clock, allow_loopback=allow_loopback)
    due = [one.id for one in await deliveries.find(50)]
    return await sender.send_due(due, deadline_s=world.clock.passed_s + 60)


async def hooked(world: BusWorld, url: str) -> Document:
    webhook = await world.webhooks.create("acme", url=url, types=["order.*"])
    await world.bus().publish("acme", [placed(data={"n": 1})])
    return webhook


async def delivery_of(world: BusWorld) -> Document:
    found = await world.mongo.db["webhook_deliveries"].find_one({})
    assert found is not None
    return found


def verified(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """An independent reading of the Standard Webhooks specification."""
    content = headers["webhook-id"] + "." + headers["webhook-timestamp"] + "." + body.decode()
    key = base64.b64decode(secret.split("_", 1)[1])
    expected = base64.b64encode(hmac.digest(key, content.encode(), hashlib.sha256)).decode()
    given = [one.split(",", 1) for one in headers["webhook-signature"].split(" ")]
    return any(version == "v1" and mark == expected for version, mark in given)


async def test_a_receiver_gets_a_signed_cloudevent(world: BusWorld, receiver: Receiver) -> None:
    webhook = await hooked(world, receiver.url)
    assert await send(world) == [Sent.DELIVERED]
    headers, body = receiver.calls[0]
    assert verified(webhook["secrets"][0]["secret"], headers, body)
    assert not verified(webhook["secrets"][0]["secret"], headers, body + b" ")
    assert headers["content-type"] == "application/cloudevents+json"
    assert json.loads(body)["data"] == {"n": 1}
    assert headers["host"] == receiver.url.split("/")[2]
    assert await send(world) == []


async def test_the_example_of_the_specification_has_our_signature() -> None:
    # github.com/standard-webhooks/standard-webhooks, spec and reference libraries
    from datetime import UTC, datetime

    from lambent.bus.signing import signature_headers

    headers = signature_headers(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        b'{"test": 2432232314}',
        secrets=["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"],
        at=datetime.fromtimestamp(1614265330, UTC),
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    ("status", "sent"), [(b"200 OK", Sent.DELIVERED), (b"500 Broken", Sent.RETRY)]
)
async def test_the_head_of_an_answer_counts_though_its_body_stalls(
    world: BusWorld,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    status: bytes,
    sent: Sent,
) -> None:
    monkeypatch.setattr(sending, "READ_LIMIT_S", 1.0)
    receiver.answer = b"HTTP/1.1 " + status + b"\r\ncontent-length: 10\r\n\r\nha"
    receiver.stalls = True
    await hooked(world, receiver.url)
    assert await send(world) == [sent]
    if sent is Sent.RETRY:
        assert (await delivery_of(world))["history"][-1]["status"] == 500


async def test_failures_are_retried_over_hours_and_end_as_a_dead_letter(
    world: BusWorld, receiver: Receiver
) -> None:
    receiver.answer = b"HTTP/1.1 500 Oh no\r\ncontent-length: 4\r\n\r\nsick"
    await hooked(world, receiver.url)
    waited_s = []
    for _ in range(MAX_ATTEMPTS - 1):
        assert await send(world) == [Sent.RETRY]
        delivery = await delivery_of(world)
        waited_s.append((delivery["due_at"] - world.clock.now()).total_seconds())
        assert await send(world) == [], "not before its time"
        world.clock.passed_s += waited_s[-1]
    assert await send(world) == [Sent.DEAD]
    assert all(0.8 * p <= w <= 1.2 * p for w, p in zip(waited_s, BACKOFF_S, strict=True))
    assert sum(waited_s) > 12 * 3600
    assert all(earlier < later for earlier, later in pairwise(waited_s))
    delivery = await delivery_of(world)
    assert (delivery["status"], delivery["reason"]) == ("dead", "every attempt failed")
    assert delivery["history"][-1]["excerpt"] == "sick"
    world.clock.passed_s += 86400
    assert await send(world) == []


async def test_a_dead_letter_is_sent_again_by_replay(world: BusWorld, receiver: Receiver) -> None:
    receiver.answer = b"HTTP/1.1 500 Oh no\r\ncontent-length: 0\r\n\r\n"
    await hooked(world, receiver.url)
    delivery = await delivery_of(world)
    with pytest.raises(Conflict):
        await world.webhooks.replay(delivery["_id"], client="acme")
    for _ in range(MAX_ATTEMPTS):
        await send(world)
        world.clock.passed_s += 86400
    receiver.answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    with pytest.raises(NotFound):
        await world.webhooks.replay(delivery["_id"], client="umbrella")
    await world.webhooks.replay(delivery["_id"], client="acme")
    assert await send(world) == [Sent.DELIVERED]
    ids = {headers["webhook-id"] for headers, _ in receiver.calls}
    assert ids == {delivery["_id"]}, "receivers tell repeats by the id"


async def test_retry_after_is_honoured_and_gone_turns_the_webhook_off(
    world: BusWorld, receiver: Receiver
) -> None:
    receiver.answer = b"HTTP/1.1 503 Busy\r\nretry-after: 900\r\ncontent-length: 0\r\n\r\n"
    webhook = await hooked(world, receiver.url)
    assert await send(world) == [Sent.RETRY]
    assert (await delivery_of(world))["due_at"] == world.clock.now() + timedelta(seconds=900)
    receiver.answer = b"HTTP/1.1 410 Gone\r\ncontent-length: 0\r\n\r\n"
    world.clock.passed_s += 901
    assert await send(world) == [Sent.DEAD]
    found = await world.webhooks.get(webhook["_id"], client="acme")
    assert (found["status"], found["reason"]) == (WebhookStatus.DISABLED, "gone")


async def test_a_retry_within_the_minute_rings_for_a_poller(
    world: BusWorld, receiver: Receiver
) -> None:
    receiver.answer = b"HTTP/1.1 500 Oh no\r\ncontent-length: 0\r\n\r\n"
    await hooked(world, receiver.url)
    bell = PollerBell(world.mongo, clock=world.clock, nudges=world.nudges)
    sender = WebhookSender(world.mongo, clock=world.clock, allow_loopback=True, bell=bell)
    delivery = await delivery_of(world)
    await sender.send_due([delivery["_id"]], deadline_s=world.clock.passed_s + 60)
    assert world.nudges.sent[-1] == (Work.POLL, "due")


async def test_redirects_are_not_followed(world: BusWorld, receiver: Receiver) -> None:
    location = f"location: {receiver.url}?again\r\n".encode()
    receiver.answer = b"HTTP/1.1 302 Found\r\n" + location + b"content-length: 0\r\n\r\n"
    await hooked(world, receiver.url)
    assert await send(world) == [Sent.RETRY]
    assert len(receiver.calls) == 1


async def test_an_endless_answer_is_cut_off(world: BusWorld, receiver: Receiver) -> None:
    body = b"x" * 5_000_000
    receiver.answer = b"HTTP/1.1 400 Bad\r\ncontent-length: 5000000\r\n\r\n" + body
    await hooked(world, receiver.url)
    assert await send(world) == [Sent.RETRY]
    history = (await delivery_of(world))["history"]
    assert history[0]["excerpt"] == "x" * sending.KEPT_ANSWER_CHARS


async def test_during_a_rotation_both_secrets_sign(world: BusWorld, receiver: Receiver) -> None:
    webhook = await hooked(world, receiver.url)
    old = webhook["secrets"][0]["secret"]
    new = await world.webhooks.rotate(webhook["_id"], client="acme")
    await send(world)
    assert verified(old, *receiver.calls[0])
    assert verified(new, *receiver.calls[0])
    world.clock.passed_s += 24 * 3600
    await world.bus().publish("acme", [placed("2")])
    await send(world)
    assert not verified(old, *receiver.calls[1])
    assert verified(new, *receiver.calls[1])


async def test_a_target_inside_is_refused_at_connect_and_dies(
    world: BusWorld, receiver: Receiver
) -> None:
    await hooked(world, receiver.url)
    assert await send(world, allow_loopback=False) == [Sent.DEAD]
    assert receiver.calls == []
    assert (await delivery_of(world))["reason"] == "the target is refused"


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1"),
        *("0.0.0.0", "224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
        *("::1", "::", "fe80::1", "fc00::1", "ff02::1", "::ffff:10.0.0.1", "::ffff:127.0.0.1"),
        *("64:ff9b::a9fe:a9fe", "2002:7f00:1::", "2001:0:1::", "fe80::1%eth0", "fd00:ec2::254"),
        *("fec0::1", "3fff::1"),
    ],
)
async def test_no_address_inside_any_network_may_be_reached(address: str) -> None:
    assert not may_reach(address, allow_loopback=False)


async def test_public_addresses_may_be_reached() -> None:
    for address in ("1.1.1.1", "93.184.216.34", "2606:4700:4700::1111"):
        assert may_reach(address, allow_loopback=False)


@pytest.mark.parametrize("host", ["localhost", "127.1", "2130706433", "0x7f.1"])
async def test_names_and_odd_spellings_of_inner_addresses_are_refused(host: str) -> None:
    network = PublicNetwork(allow_loopback=False)
    with pytest.raises((TargetRefused, httpcore.ConnectError)):
        await network.connect_tcp(host, 80, timeout=1)


@pytest.mark.parametrize(
    "url",
    [
        *("http://example.com/", "https://10.0.0.1/", "https://[::1]/", "ftp://example.com"),
        *("https://user:pass@example.com/", "https:///x", "https://example.com/#f", "https://h:x/"),
    ],
)
async def test_addresses_of_the_wrong_form_are_refused_at_once(url: str) -> None:
    with pytest.raises(Unprocessable):
        check_url(url, allow_loopback=False)


async def test_the_name_resolved_once_is_the_address_connected_to(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the second answer of the name server leads inside, and is never asked for."""
    answers = [[(2, 1, 6, "", ("127.0.0.1", 0))], [(2, 1, 6, "", ("10.0.0.1", 0))]]
    asked = []

    async def resolve(host: str, port: int, **options: object) -> object:
        asked.append(host)
        return answers[len(asked) - 1] if host == "rebind.example" else [(2, 1, 6, "", (host, 0))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    port = receiver.url.split(":")[2].split("/")[0]
    headers = [("content-type", "text/plain")]
    url = f"http://rebind.example:{port}/hook"
    answer = await sending.post(url, b"x", headers=headers, allow_loopback=True)
    assert answer.status == 204
    assert asked.count("rebind.example") == 1
    assert receiver.calls[0][0]["host"] == f"rebind.example:{port}"


async def test_webhooks_belong_to_their_client(world: BusWorld) -> None:
    made = await world.webhooks.create("acme", url="https://example.com/", types=["a.*", "b"])
    with pytest.raises(NotFound):
        await world.webhooks.get(made["_id"], client="umbrella")
    with pytest.raises(NotFound):
        await world.webhooks.delete(made["_id"], client="umbrella")
    off = WebhookChange(status=WebhookStatus.DISABLED, types=["*"])
    changed = await world.webhooks.change(made["_id"], off, client="acme")
    assert (changed["status"], changed["types"]) == ("disabled", ["*"])
    assert [one["_id"] for one in await world.webhooks.all_of("acme")] == [made["_id"]]
    await world.webhooks.delete(made["_id"], client="acme")
    assert await world.webhooks.all_of("acme") == []


async def test_only_fitting_types_of_active_webhooks_are_queued(world: BusWorld) -> None:
    assert type_matches("order.*", "order.placed")
    assert not type_matches("order.*", "orders.placed")
    await world.webhooks.create("acme", url="https://example.com/", types=["other"])
    await world.webhooks.create("umbrella", url="https://example.com/", types=["*"])
    off = await world.webhooks.create("acme", url="https://example.com/", types=["*"])
    change = WebhookChange(status=WebhookStatus.DISABLED)
    await world.webhooks.change(off["_id"], change, client="acme")
    await world.bus().publish("acme", [placed()])
    assert await world.count("webhook_deliveries") == 0


@pytest.mark.parametrize("types", [[], ["a*"], ["*.a"], ["a.*.b"], [""], ["x"] * 51])
async def test_patterns_of_the_wrong_form_are_refused(world: BusWorld, types: list[str]) -> None:
    with pytest.raises(Unprocessable):
        await world.webhooks.create("acme", url="https://example.com/", types=types)


async def test_deliveries_of_a_webhook_are_listed_by_status(
    world: BusWorld, receiver: Receiver
) -> None:
    webhook = await hooked(world, receiver.url)
    await send(world)
    world.clock.passed_s += 1
    await world.bus().publish("acme", [placed("2")])
    listed = await world.webhooks.deliveries(webhook["_id"], client="acme")
    assert [one["status"] for one in listed] == ["pending", "delivered"]
    pending = DeliveryStatus.PENDING
    only = await world.webhooks.deliveries(webhook["_id"], client="acme", status=pending)
    assert len(only) == 1
