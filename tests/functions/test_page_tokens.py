"""A page's five-minute token dies with the session that it was made in, in every function."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest

from local.services import Reply, ScriptedModel
from tests.functions.stack import Stack, running_stack

ADMIN = ("admin", "chat", "runs", "events")
SignIn = Callable[..., "Person"]
ASKED = {"agent": "chat", "input": "talk"}


@pytest.fixture(scope="module")
def script() -> Iterator[ScriptedModel]:
    with ScriptedModel.start() as server:
        yield server


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, script: ScriptedModel) -> Iterator[Stack]:
    environ = {"OLLAMA_HOST": script.host}
    with running_stack(tmp_path_factory.mktemp("tokens") / "data", environ) as running:
        yield running


class Person:
    """Somebody signed in, with the token that a page of theirs has."""

    def __init__(self, stack: Stack, browser: httpx.Client, key: str) -> None:
        self.stack, self.browser, self.key = stack, browser, key
        assert self.browser.post("/admin/sign-in", data={"key": key}).status_code == 303
        self.token = self.browser.get("/admin/session/token").json()["token"]

    def sign_out(self, **form: str) -> None:
        page = self.browser.get("/admin/audit").text
        found = re.search(r'name="csrf" value="([^"]+)"', page)
        assert found
        form["csrf"] = found[1]
        assert self.browser.post("/admin/session/end", data=form).status_code == 303

    def asks(self, method: str, path: str, **options: object) -> int:
        """The status that the script of a page is answered with."""
        with (
            self.stack.client(self.token) as client,
            client.stream(method, path, **options) as answer,  # type: ignore[arg-type]
        ):
            return answer.status_code

    def reaches(self) -> set[int]:
        """What the routes that pages ask are answered with."""
        return {
            self.asks("GET", "/agents"),
            self.asks("GET", f"/runs/{self.run()}/events"),
            self.asks("POST", "/chat/stream", json=ASKED),
        }

    def run(self) -> str:
        with self.stack.client() as client:
            return str(client.post("/runs", json={"workflow": "news.digest"}).json()["id"])


@pytest.fixture
def signed_in(stack: Stack) -> Iterator[SignIn]:
    """Signs somebody in, with this key or a new one."""
    with ExitStack() as opened:

        def sign_in(key: str | None = None) -> Person:
            client = httpx.Client(base_url=stack.url, timeout=60, headers={"origin": stack.url})
            browser = opened.enter_context(client)
            return Person(stack, browser, key or stack.new_key(scopes=ADMIN))

        yield sign_in


def everywhere(person: Person) -> None:
    person.sign_out(scope="everywhere")


def revoke(person: Person) -> None:
    with person.stack.client() as client:
        assert client.delete(f"/keys/{person.key.split('_')[1]}").status_code == 204


def rotate(person: Person) -> None:
    with person.stack.client() as client:
        assert client.post(f"/keys/{person.key.split('_')[1]}/rotate").is_success


@pytest.mark.parametrize("end", [Person.sign_out, everywhere, revoke, rotate])
def test_a_token_is_refused_once_its_session_is_ended(
    signed_in: SignIn, end: Callable[[Person], None]
) -> None:
    person, other = signed_in(), signed_in()
    assert person.reaches() == {200}
    end(signed_in(person.key) if end is everywhere else person)
    assert person.reaches() == {401}
    assert other.reaches() == {200}


def test_signing_out_of_one_session_leaves_the_keys_others_alone(signed_in: SignIn) -> None:
    person = signed_in()
    same = signed_in(person.key)
    person.sign_out()
    assert person.asks("GET", "/agents") == 401
    assert same.asks("GET", "/agents") == 200


def test_a_page_that_signs_out_still_says_that_it_leaves_its_stream(
    stack: Stack, script: ScriptedModel, signed_in: SignIn
) -> None:
    person = signed_in()
    script.script(Reply.many(2_000, delay_s=0.05))
    with stack.client(person.token) as client:
        lease = {"x-stream-lease": "90"}
        with client.stream("POST", "/chat/stream", json=ASKED, headers=lease) as answer:
            stream = f"/chat/streams/{answer.headers['x-stream-id']}"
            next(answer.iter_lines())
    person.sign_out()
    assert person.asks("POST", f"{stream}/lease") == 401
    # The beacon of a page goes off once the answer to its form has come.
    assert person.asks("POST", f"{stream}/leave", content=person.token) == 200
    until = time.monotonic() + 60  # and its lease is longer than that
    while not script.generations[-1].hung_up and time.monotonic() < until:
        time.sleep(0.05)
    assert script.generations[-1].hung_up
