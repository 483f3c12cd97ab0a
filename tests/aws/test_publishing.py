"""What a deploy publishes: all functions where anything changed that they are made of, else none.

Lambda refuses to publish a function that has not changed, and CloudFormation replaces a version
only where its logical id or its description changes: so they have to agree, for each parameter.
"""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import Any

import pytest
from cfnlint.schema.manager import PROVIDER_SCHEMA_MANAGER

from lambent.deploy import digest
from local.aws.transform import read_template, transform
from local.emulator.intrinsics import Resolver
from tests.aws.test_template import EVERYTHING, NAMES

TEMPLATE = read_template()
REQUIRED = {"MongoUri": "mongodb://db.example.com/", "PostgresDsn": "postgresql://db.example.com/x"}
BASES = {"defaults": REQUIRED, "every option": REQUIRED | EVERYTHING}
# A function has it, its versions do not.
UNVERSIONED = "ReservedConcurrentExecutions"


class Stack:
    """The template as it stands with these parameters, `setup`'s answer in it."""

    def __init__(self, parameters: dict[str, str], source: dict[str, Any] = TEMPLATE) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the translator's own
            made = transform(source, parameters=parameters)
        self._resources = made["Resources"]
        self._resolver = Resolver(made, parameters=parameters, references=lambda name: name,
                                  attributes=self._attribute)  # fmt: skip

    def _attribute(self, owner: str, name: str) -> str:
        if (owner, name) == ("Settings", "Digest"):
            return digest(self.properties("Settings"))
        return f"{owner}.{name}"

    def properties(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self._resolver.resolve(self._resources[name]["Properties"])
        return found

    def function(self, name: str) -> dict[str, Any]:
        """What a version of the function holds."""
        return {key: v for key, v in self.properties(name).items() if key != UNVERSIONED}

    def version(self, function: str) -> tuple[str, dict[str, Any]]:
        """What has to change for a new version of the function: logical id or a property."""
        (found,) = [name for name, body in self._resources.items()
                    if body["Type"] == "AWS::Lambda::Version"
                    and body["Properties"]["FunctionName"] == {"Ref": function}]  # fmt: skip
        return found, self.properties(found)


@lru_cache
def base(name: str) -> Stack:
    return Stack(BASES[name])


@lru_cache
def changed(parameter: str, of: str) -> Stack:
    """That base with another value of the parameter, of those that it takes."""
    body = TEMPLATE["Parameters"][parameter]
    value = BASES[of].get(parameter, str(body.get("Default", "")))
    others = (str(one) for one in body.get("AllowedValues", []) if str(one) != value)
    return Stack({**BASES[of], parameter: next(others, "7777777777777777")})


def published(before: Stack, after: Stack) -> set[str]:
    return {name for name in NAMES if before.version(name) != after.version(name)}


@pytest.mark.parametrize("of", BASES)
@pytest.mark.parametrize("parameter", TEMPLATE["Parameters"])
def test_a_parameter_publishes_all_that_it_changes_and_nothing_else(
    parameter: str, of: str
) -> None:
    before, after = base(of), changed(parameter, of)
    different = {name for name in NAMES if before.function(name) != after.function(name)}
    assert published(before, after) == different
    if different:
        assert different == set(NAMES)
        assert before.properties("Stores") != after.properties("Stores")  # `setup` runs, too


def test_all_settings_and_a_release_publish_and_what_no_function_holds_does_not() -> None:
    variables = TEMPLATE["Globals"]["Function"]["Environment"]["Variables"].values()
    settings = {each["Ref"] for each in variables if "Ref" in each} - {"AWS::StackName"}
    all_of = base("every option")
    publishing = {name for name in TEMPLATE["Parameters"]
                  if published(all_of, changed(name, "every option"))}  # fmt: skip
    others = {"Release", "Architecture", "SnapStart", "SubnetIds", "SecurityGroupIds"}
    assert publishing == settings | others


def test_the_same_once_more_publishes_nothing() -> None:
    again = Stack(BASES["defaults"])
    assert not published(base("defaults"), again)
    assert base("defaults").properties("Stores") == again.properties("Stores")


@pytest.mark.parametrize("layer", ["CoreLayer", "AgentsLayer"])
def test_code_in_a_layer_publishes_all_and_runs_setup(layer: str) -> None:
    source = read_template()
    source["Resources"][layer]["Properties"]["Description"] += " Other code."
    after = Stack(BASES["defaults"], source)
    assert published(base("defaults"), after) == set(NAMES)
    assert base("defaults").properties("Stores") != after.properties("Stores")


@pytest.mark.parametrize(
    ("layer", "having"),
    [("WebLayer", {"Gateway"}), ("RuntimeLayer", {"Chat", "Step", "Deliver", "Poller"})],
)
def test_code_in_another_layer_publishes_those_that_have_it_and_setup_does_not_run(
    layer: str, having: set[str]
) -> None:
    source = read_template()
    source["Resources"][layer]["Properties"]["Description"] += " Other code."
    after = Stack(BASES["defaults"], source)
    assert published(base("defaults"), after) == having
    assert base("defaults").properties("Stores") == after.properties("Stores")


def test_cloudformation_replaces_a_version_whose_description_changes() -> None:
    schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", "AWS::Lambda::Version")
    assert "/properties/Description" in schema.schema["createOnlyProperties"]
