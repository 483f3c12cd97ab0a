"""The registry: what it finds, and how it reports everything that is wrong at once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from lambent.agents.agent import agent
from lambent.agents.registry import AgentRegistry
from lambent.errors import ConfigError, UnknownAgent

AGENT = """
    from lambent.agents.agent import Agent, Chunk, agent

    @agent("{name}", description="Says hello.", model="m:1", examples=("Hi",))
    class HelloAgent(Agent):
        async def generate_stream(self, turn):
            yield Chunk(delta="hello")
"""


class Package:
    """A package of authors' modules on disk, under a name that no other test uses."""

    def __init__(self, folder: Path) -> None:
        self.name = f"authors_{folder.name}"
        self.folder = folder / self.name
        self.folder.mkdir()
        self.write("__init__", "")

    def write(self, module: str, source: str) -> None:
        (self.folder / f"{module}.py").write_text(dedent(source))


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    monkeypatch.syspath_prepend(str(tmp_path))
    made = Package(tmp_path)
    yield made
    for name in [name for name in sys.modules if name.split(".")[0] == made.name]:
        del sys.modules[name]


def test_one_new_file_in_a_package_is_one_new_agent(package: Package) -> None:
    package.write("hello", AGENT.format(name="hello"))
    registry = AgentRegistry.load([package.name])
    (info,) = registry.infos()
    assert (info.name, info.description, info.model) == ("hello", "Says hello.", "m:1")
    assert info.examples == ("Hi",)
    assert "hello" in registry
    assert registry.get("hello").__name__ == "HelloAgent"


def test_the_agents_that_come_along_are_found() -> None:
    infos = AgentRegistry.load(["lambent_agents"]).infos()
    assert {"chat", "news"} <= {info.name for info in infos}


def test_an_agent_that_is_only_imported_does_not_count_twice(package: Package) -> None:
    package.write("hello", AGENT.format(name="hello"))
    package.write("other", f"from {package.name}.hello import HelloAgent")
    assert len(AgentRegistry.load([package.name, f"{package.name}.hello"]).infos()) == 1


def test_an_unknown_agent_is_an_error_of_its_own() -> None:
    registry = AgentRegistry([])
    assert "none" not in registry
    with pytest.raises(UnknownAgent, match="'none'"):
        registry.get("none")


def test_every_broken_module_is_named_in_one_error(package: Package) -> None:
    package.write("one", "import not_to_be_found_anywhere")
    package.write("two", "def broken(:")
    package.write("three", "raise SystemExit('gone')")
    package.write("four", AGENT.format(name="four"))
    with pytest.raises(ConfigError) as caught:
        AgentRegistry.load([package.name, "no_such_module_at_all"])
    told = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 4
    assert "names no_such_module_at_all, and there is no such module" in told
    assert f"{package.name}.one cannot be imported: ModuleNotFoundError" in told
    assert f"{package.name}.two cannot be imported: SyntaxError" in told
    assert f"{package.name}.three cannot be imported: SystemExit: gone" in told


def test_every_name_that_is_taken_twice_and_every_class_that_cannot_run_is_named(
    package: Package,
) -> None:
    package.write("one", AGENT.format(name="same"))
    package.write("two", AGENT.format(name="same"))
    package.write(
        "three",
        """
        from lambent.agents.agent import Agent, agent

        @agent("plain", description="x")
        class Plain: ...

        @agent("empty", description="x")
        class Empty(Agent): ...

        @agent("needy", description="x")
        class Needy(Agent):
            def __init__(self, what): ...
            async def generate_stream(self, turn): return None
        """,
    )
    with pytest.raises(ConfigError) as caught:
        AgentRegistry.load([package.name])
    told = "\n".join(caught.value.problems)
    assert "'same' is taken twice" in told
    assert "does not derive from Agent" in told
    assert "does not define generate_stream" in told
    assert "without a yield" in told
    assert "needs arguments" in told


@pytest.mark.parametrize("name", ["", "Chat", "9lives", "a b", "a/b", "x" * 65])
def test_a_name_that_cannot_stand_in_a_request_is_refused_at_the_class(name: str) -> None:
    with pytest.raises(ValueError, match="agent name"):
        agent(name, description="x")
