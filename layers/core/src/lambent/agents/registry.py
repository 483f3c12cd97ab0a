"""`AgentRegistry`: which agents this deployment has, checked once, when it starts."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable
from types import ModuleType

from lambent.agents.agent import Agent, AgentInfo, info_of
from lambent.agents.modules import import_modules
from lambent.errors import ConfigError, UnknownAgent


class AgentRegistry:
    """Agents by name."""

    def __init__(
        self, agents: Iterable[type], *, mcp_servers: Collection[str] | None = None
    ) -> None:
        """`mcp_servers`: those that agents may name; None: any.

        Raises `ConfigError` that lists every duplicate name and every class that cannot run.
        """
        self._mcp_servers = mcp_servers
        self._agents: dict[str, type[Agent]] = {}
        problems: list[str] = []
        for cls in agents:
            problems.extend(self._add(cls))
        if problems:
            raise ConfigError(problems)

    @classmethod
    def load(
        cls, module_names: Iterable[str], *, mcp_servers: Collection[str] | None = None
    ) -> AgentRegistry:
        """The agents of these modules, and of all modules in a package that is named."""
        return cls.of_modules(import_modules(module_names), mcp_servers=mcp_servers)

    @classmethod
    def of_modules(
        cls, modules: Iterable[ModuleType], *, mcp_servers: Collection[str] | None = None
    ) -> AgentRegistry:
        """The agents that these modules define; one that they only import does not count."""
        agents = (
            value
            for module in modules
            for value in vars(module).values()
            if inspect.isclass(value) and value.__module__ == module.__name__ and info_of(value)
        )
        return cls(agents, mcp_servers=mcp_servers)

    def __contains__(self, name: str) -> bool:
        return name in self._agents

    def get(self, name: str) -> type[Agent]:
        """Raises `UnknownAgent`."""
        try:
            return self._agents[name]
        except KeyError:
            raise UnknownAgent(f"There is no agent {name!r}.") from None

    def info(self, name: str) -> AgentInfo:
        """Raises `UnknownAgent`."""
        info = info_of(self.get(name))
        assert info is not None
        return info

    def infos(self) -> tuple[AgentInfo, ...]:
        """All agents, by name."""
        return tuple(self.info(name) for name in sorted(self._agents))

    def _add(self, cls: type) -> list[str]:
        where = f"{cls.__module__}.{cls.__qualname__}"
        info = info_of(cls)
        if info is None:
            return [f"{where} has no name: put @agent(...) on it"]
        faults = [*_faults(cls), *_tool_faults(cls, info), *_mcp_faults(info, self._mcp_servers)]
        problems = [f"agent {info.name!r}: {where} {wrong}" for wrong in faults]
        other = self._agents.setdefault(info.name, cls)
        if other is not cls:
            also = f"{other.__module__}.{other.__qualname__}"
            problems.append(f"the agent name {info.name!r} is taken twice: by {also} and {where}")
        return problems


def _faults(cls: type) -> list[str]:
    if not issubclass(cls, Agent):
        return ["does not derive from Agent"]
    if inspect.isabstract(cls):
        return ["does not define generate_stream"]
    faults = []
    if inspect.iscoroutinefunction(cls.generate_stream):
        faults.append("has a generate_stream without a yield")
    if inspect.isgeneratorfunction(cls.generate_stream):
        faults.append("has a generate_stream that is not async")
    try:
        inspect.signature(cls).bind()
    except TypeError:
        faults.append("needs arguments to be made; an agent is made without any")
    return faults


def _tool_faults(cls: type, info: AgentInfo) -> list[str]:
    if not (info.tools or info.mcp or info.durable):
        return []
    from lambent.agents.tool_agent import ToolAgent
    from lambent.agents.tools import by_name

    faults = []
    if not issubclass(cls, ToolAgent):
        return ["has tools or is durable, and does not derive from ToolAgent"]
    if info.durable and cls.generate_stream is not ToolAgent.generate_stream:
        faults.append("is durable and has a generate_stream of its own, which would not be")
    if not info.durable:
        waiting = [one.name for one in info.tools if one.needs_approval]
        waiting += [f"tools of {one.server}" for one in info.mcp if one.needs_approval]
        if waiting:
            faults.append(f"is not durable, so nobody can approve {', '.join(waiting)}")
    try:
        by_name(info.tools)
    except ValueError as error:
        faults.append(str(error))
    return faults


def _mcp_faults(info: AgentInfo, servers: Collection[str] | None) -> list[str]:
    faults = []
    names = [one.server for one in info.mcp]
    if len(set(names)) < len(names):
        faults.append("names an MCP server twice")
    for name in names:
        if servers is not None and name not in servers:
            faults.append(f"names the MCP server {name!r}, and MCP_SERVERS does not")
        taken = [one.name for one in info.tools if one.name.startswith(f"{name}__")]
        if taken:
            faults.append(f"has {', '.join(taken)}, names that are the MCP server {name}'s")
    return faults
