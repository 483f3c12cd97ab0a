"""Resolves CloudFormation's intrinsic functions as far as one machine can."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml


class TemplateError(Exception):
    """The template cannot be run as it stands; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Unresolved:
    """A value that only AWS knows, such as another resource's attribute."""

    what: str


NO_VALUE = object()

_PSEUDO: dict[str, Any] = {
    "AWS::AccountId": "123456789012",
    "AWS::Region": "us-east-1",
    "AWS::StackName": "lambent",
    "AWS::StackId": "arn:aws:cloudformation:us-east-1:123456789012:stack/lambent/local",
    "AWS::Partition": "aws",
    "AWS::URLSuffix": "amazonaws.com",
    "AWS::NotificationARNs": [],
    "AWS::NoValue": NO_VALUE,
}


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms (`!Ref x` is read as {"Ref": "x"})."""


def _short_form(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    key = suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}"
    value: Any
    match node:
        case yaml.ScalarNode():
            value = loader.construct_scalar(node)
            if suffix == "GetAtt":
                value = str(value).split(".", 1)
        case yaml.SequenceNode():
            value = loader.construct_sequence(node, deep=True)
        case yaml.MappingNode():
            value = loader.construct_mapping(node, deep=True)
        case _:
            raise TemplateError(f"!{suffix} stands on something that is no value")
    return {key: value}


def _text(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


_Loader.add_multi_constructor("!", _short_form)
# CloudFormation reads a version such as 2010-09-09 as text, not as a date.
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _text)


def load_yaml(text: str) -> dict[str, Any]:
    try:
        document = yaml.load(text, Loader=_Loader)  # derived from the safe loader
    except yaml.YAMLError as error:
        raise TemplateError(f"the template is not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise TemplateError("the template is empty")
    return document


class Resolver:
    """Turns template values into plain ones; what AWS alone knows becomes `Unresolved`."""

    def __init__(
        self,
        template: Mapping[str, Any],
        *,
        parameters: Mapping[str, str],
        references: Callable[[str], Any],
        attributes: Callable[[str, str], Any],
    ) -> None:
        self._conditions = template.get("Conditions") or {}
        self._mappings = template.get("Mappings") or {}
        self._parameters = {
            name: parameters.get(name, (body or {}).get("Default", Unresolved(f"parameter {name}")))
            for name, body in (template.get("Parameters") or {}).items()
        }
        self._references = references
        self._attributes = attributes

    def resolve(self, value: Any) -> Any:
        """Plain data; `Unresolved` in place of what cannot be known here."""
        if isinstance(value, Mapping):
            if len(value) == 1:
                (key, argument), *_ = value.items()
                if key in ("Ref", "Condition") or str(key).startswith("Fn::"):
                    return self._call(str(key), argument)
            resolved = {key: self.resolve(item) for key, item in value.items()}
            return {key: item for key, item in resolved.items() if item is not NO_VALUE}
        if isinstance(value, list):
            return [item for item in map(self.resolve, value) if item is not NO_VALUE]
        if isinstance(value, str) and value.startswith("{{resolve:"):
            return Unresolved(f"dynamic reference {value}")
        return value

    def condition(self, name: str) -> bool:
        if name not in self._conditions:
            raise TemplateError(f"condition {name} is used but not defined")
        outcome = self.resolve(self._conditions[name])
        if isinstance(outcome, Unresolved):
            raise TemplateError(f"condition {name} needs {outcome.what}")
        return bool(outcome)

    def _call(self, key: str, argument: Any) -> Any:
        match key:
            case "Ref":
                return self._ref(str(argument))
            case "Condition":
                return self.condition(str(argument))
            case "Fn::If":
                return self.resolve(argument[1 if self.condition(argument[0]) else 2])
            case "Fn::GetAtt":
                parts = argument if isinstance(argument, list) else str(argument).split(".", 1)
                return self._attributes(str(parts[0]), str(parts[1]))
            case "Fn::Sub":
                return self._sub(argument)
        arguments = self.resolve(argument)
        missing = _first_unresolved(arguments)
        if missing is not None:
            return missing
        return self._pure(key, arguments)

    def _pure(self, key: str, arguments: Any) -> Any:
        match key:
            case "Fn::Equals":
                return str(arguments[0]) == str(arguments[1])
            case "Fn::Not":
                return not arguments[0]
            case "Fn::And":
                return all(arguments)
            case "Fn::Or":
                return any(arguments)
            case "Fn::Join":
                return str(arguments[0]).join(map(str, arguments[1]))
            case "Fn::Split":
                return str(arguments[1]).split(str(arguments[0]))
            case "Fn::Select":
                return arguments[1][int(arguments[0])]
            case "Fn::FindInMap":
                return self._mappings[arguments[0]][arguments[1]][arguments[2]]
            case _:
                return Unresolved(key)

    def _ref(self, name: str) -> Any:
        if name in _PSEUDO:
            return _PSEUDO[name]
        if name in self._parameters:
            return self.resolve(self._parameters[name])
        return self._references(name)

    def _sub(self, argument: Any) -> Any:
        text, extra = (argument, {}) if isinstance(argument, str) else argument
        pieces: list[str] = []
        rest = str(text)
        while (start := rest.find("${")) >= 0:
            end = rest.find("}", start)
            if end < 0:
                break
            name = rest[start + 2 : end]
            pieces.append(rest[:start])
            rest = rest[end + 1 :]
            value = self._named(name, extra)
            if isinstance(value, Unresolved):
                return value
            pieces.append(str(value))
        return "".join([*pieces, rest])

    def _named(self, name: str, extra: Mapping[str, Any]) -> Any:
        if name.startswith("!"):
            return "${" + name[1:] + "}"
        if name in extra:
            return self.resolve(extra[name])
        if "." in name and name not in _PSEUDO:
            resource, attribute = name.split(".", 1)
            return self._attributes(resource, attribute)
        return self._ref(name)


def _first_unresolved(value: Any) -> Unresolved | None:
    if isinstance(value, Unresolved):
        return value
    items = value.values() if isinstance(value, Mapping) else value
    if isinstance(items, str) or not hasattr(items, "__iter__"):
        return None
    return next((found for item in items if (found := _first_unresolved(item))), None)
