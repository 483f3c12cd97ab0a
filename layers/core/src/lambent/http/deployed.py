"""What is deployed, over HTTP: the agents, and each workflow with what runs of it."""

# No postponed annotations here: FastAPI has to see the dependencies made inside the function.

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from lambent.admission.decisions import Principal, Scope
from lambent.agents.agent import AgentInfo
from lambent.agents.registry import AgentRegistry
from lambent.engine.census import Census, Counted
from lambent.engine.engine import WorkflowEngine
from lambent.engine.model import GOING_ON, Status


class ToolView(BaseModel):
    """A tool that an agent may use."""

    name: str = Field(examples=["search_web"])
    description: str
    needs_approval: bool = Field(description="A person decides on each call.")


class AgentView(BaseModel):
    """An agent, as its author wrote it."""

    name: str = Field(examples=["chat"])
    description: str
    model: str = Field(description="Used where a request names none.", examples=["llama3.2:1b"])
    own_model: bool = Field(description="Whether it is the agent's, not the deployment's.")
    tools: list[ToolView]
    rounds: int = Field(description="How often it may call tools in a turn.", examples=[8])
    durable: bool = Field(description="Its turns are runs, which outlive the function.")
    version: int = Field(description="Of a durable agent's workflow.", examples=[1])
    examples: list[str]


class AgentsView(BaseModel):
    agents: list[AgentView]


class CountedView(BaseModel):
    """How many; `more`: counting stopped there."""

    count: int = Field(examples=[12])
    more: bool


class WorkflowRuns(BaseModel):
    """A workflow, by what its runs do."""

    name: str = Field(examples=["news.digest"])
    going_on: CountedView = Field(description="Pending, running, waiting, paused or blocked.")
    failed: CountedView = Field(description="Those made in the last day.")


class WorkflowsRuns(BaseModel):
    workflows: list[WorkflowRuns]


class VersionRuns(BaseModel):
    """One version of a workflow. Counts of ended runs are of those made in the last day."""

    version: int = Field(examples=[2])
    deployed: bool = Field(description="False: its runs wait until it is again.")
    runs: dict[Status, CountedView]


class VersionsRuns(BaseModel):
    versions: list[VersionRuns] = Field(description="The newest first.")


def deployed_router(
    engine: WorkflowEngine,
    census: Census,
    *,
    agents: Callable[[], AgentRegistry],
    model: str,
    authorize: Callable[[Scope], Callable[..., Any]],
) -> APIRouter:
    """`/overview/agents`, `/overview/workflows`; need `admin:read`. `model`: the deployment's."""
    router = APIRouter(tags=["overview"])
    reader = Annotated[Principal, Depends(authorize(Scope.ADMIN_READ))]

    @router.get("/overview/agents")
    async def list_agents(_: reader) -> AgentsView:
        """Every agent, with its model and its tools."""
        return AgentsView(agents=[_agent(one, model) for one in agents().infos()])

    @router.get("/overview/workflows")
    async def count_runs(_: reader) -> WorkflowsRuns:
        """How many runs of each deployed workflow go on, and how many failed."""
        names = sorted({one.name for one in engine.workflows.all()})
        found = await census.by_workflow(names, (*GOING_ON, Status.FAILED))
        return WorkflowsRuns(
            workflows=[
                WorkflowRuns(
                    name=name,
                    going_on=_sum([found[name][status] for status in GOING_ON]),
                    failed=_sum([found[name][Status.FAILED]]),
                )
                for name in names
            ]
        )

    @router.get("/overview/workflows/{name:path}")
    async def count_versions(name: str, _: reader) -> VersionsRuns:
        """How many runs there are of each version, also of those that are not deployed."""
        deployed = {one.version for one in engine.workflows.all() if one.name == name}
        found = await census.by_version(name, deployed)
        versions = sorted(deployed | set(found), reverse=True)
        return VersionsRuns(
            versions=[
                VersionRuns(version=one, deployed=one in deployed, runs=_runs(found.get(one, {})))
                for one in versions
            ]
        )

    return router


def _agent(info: AgentInfo, model: str) -> AgentView:
    return AgentView(
        name=info.name,
        description=info.description,
        model=info.model or model,
        own_model=info.model is not None,
        tools=[
            ToolView(name=one.name, description=one.description, needs_approval=one.needs_approval)
            for one in info.tools
        ],
        rounds=info.rounds,
        durable=info.durable,
        version=info.version,
        examples=list(info.examples),
    )


def _sum(counts: list[Counted]) -> CountedView:
    more = any(one.more for one in counts)
    return CountedView(count=sum(one.count for one in counts), more=more)


def _runs(found: Mapping[Status, Counted]) -> dict[Status, CountedView]:
    nothing = Counted(0, more=False)
    return {status: _sum([found.get(status, nothing)]) for status in Status}
