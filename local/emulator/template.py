"""Reads a SAM template: the only list of functions that the emulator has."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from local.emulator.intrinsics import Resolver, TemplateError, Unresolved, load_yaml
from local.emulator.roles import invocable

ACCOUNT = "123456789012"
REGION = "us-east-1"

_FUNCTION = "AWS::Serverless::Function"
_LAYER = "AWS::Serverless::LayerVersion"
_URL = "AWS::Lambda::Url"


class UrlMode(StrEnum):
    """How a Function URL hands on the answer."""

    BUFFERED = "BUFFERED"
    RESPONSE_STREAM = "RESPONSE_STREAM"


@dataclass(frozen=True, slots=True)
class Schedule:
    """One EventBridge rule or Scheduler schedule of a function."""

    name: str
    expression: str
    scheduler: bool = False
    timezone: str = "UTC"
    input: str | None = None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """What happens to an asynchronous invoke that fails (EventInvokeConfig)."""

    retries: int = 2
    max_age_s: float = 6 * 3600
    on_failure: str | None = None
    on_success: str | None = None
    dead_letter: str | None = None


@dataclass(frozen=True, slots=True)
class Function:
    """One function as the template describes it. `short` is the name of its folder."""

    name: str
    short: str
    logical_id: str
    handler: str
    code: Path
    layers: tuple[Path, ...]
    environment: Mapping[str, str | Unresolved]
    timeout_s: float
    memory_mb: int
    reserved_concurrency: int | None
    url: UrlMode | None
    alias: str | None
    schedules: tuple[Schedule, ...]
    retry: RetryPolicy
    may_invoke: frozenset[str] | None = None
    """ARNs that its role lets it invoke; None without a role of this template: any."""

    @property
    def version(self) -> str:
        return "1" if self.alias else "$LATEST"

    def arn(self, qualifier: str | None = None) -> str:
        arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{self.name}"
        return f"{arn}:{qualifier}" if qualifier else arn


@dataclass(frozen=True, slots=True)
class Template:
    path: Path
    functions: tuple[Function, ...]

    def function(self, short: str) -> Function | None:
        return next((f for f in self.functions if f.short == short), None)


def read_template(path: Path, *, parameters: Mapping[str, str] | None = None) -> Template:
    """The functions of the template at `path`; `TemplateError` with what is wrong otherwise."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TemplateError(f"cannot read {path}: {error.strerror}") from error
    return _Reader(path, load_yaml(text), parameters or {}).read()


class _Reader:
    def __init__(self, path: Path, document: dict[str, Any], parameters: Mapping[str, str]) -> None:
        self._path = path
        self._root = path.parent.resolve()
        self._document = document
        self._resources: dict[str, dict[str, Any]] = document.get("Resources") or {}
        self._resolver = Resolver(
            document,
            parameters=parameters,
            references=self._reference,
            attributes=self._attribute,
        )
        self._globals = (document.get("Globals") or {}).get("Function") or {}

    def read(self) -> Template:
        names = [
            logical_id
            for logical_id, resource in self._resources.items()
            if resource.get("Type") == _FUNCTION
            and ("Condition" not in resource or self._resolver.condition(resource["Condition"]))
        ]
        if not names:
            raise TemplateError(f"{self._path} declares no {_FUNCTION}")
        functions = tuple(self._function(logical_id) for logical_id in names)
        shorts = [function.short for function in functions]
        twice = {short for short in shorts if shorts.count(short) > 1}
        if twice:
            raise TemplateError(f"functions share a folder name: {', '.join(sorted(twice))}")
        return Template(path=self._path, functions=functions)

    def _function(self, logical_id: str) -> Function:
        own = self._resources[logical_id].get("Properties") or {}
        merged: dict[str, Any] = self._resolver.resolve(_merge(self._globals, own))
        missing = [key for key in ("Handler", "CodeUri") if not isinstance(merged.get(key), str)]
        if missing:
            raise TemplateError(f"{logical_id} lacks {' and '.join(missing)}")
        code = (self._root / merged["CodeUri"]).resolve()
        variables = (merged.get("Environment") or {}).get("Variables") or {}
        logging_config = merged.get("LoggingConfig") or {}
        alias = merged.get("AutoPublishAlias")
        return Function(
            name=_text(merged.get("FunctionName"), logical_id),
            short=code.name if code != self._root else logical_id,
            logical_id=logical_id,
            handler=merged["Handler"],
            code=code,
            layers=tuple(self._layers(logical_id, merged.get("Layers") or [])),
            environment=_log_settings(logging_config)
            | {k: _value(v) for k, v in variables.items()},
            timeout_s=float(merged.get("Timeout", 3)),
            memory_mb=int(merged.get("MemorySize", 128)),
            reserved_concurrency=_optional_int(merged.get("ReservedConcurrentExecutions")),
            url=_url_mode(merged.get("FunctionUrlConfig") or self._url_of(logical_id)),
            alias=alias if isinstance(alias, str) else None,
            schedules=tuple(_schedules(logical_id, merged.get("Events") or {})),
            retry=_retry_policy(merged),
            may_invoke=self._may_invoke(merged.get("Role")),
        )

    def _may_invoke(self, role: Any) -> frozenset[str] | None:
        resource = role.what.partition(".")[0] if isinstance(role, Unresolved) else None
        if resource not in self._resources:
            return None
        return invocable(self._resolver.resolve(self._resources[resource]["Properties"]))

    def _layers(self, logical_id: str, layers: list[Any]) -> list[Path]:
        """Folders of the layers that this template builds; foreign ARNs have no code here."""
        folders = []
        for layer in layers:
            resource = self._resources.get(str(layer))
            if resource is None:
                continue
            content = self._resolver.resolve(resource["Properties"]["ContentUri"])
            folder = (self._root / str(content)).resolve()
            if not folder.is_dir():
                raise TemplateError(f"{logical_id}: layer folder {content} does not exist")
            folders.append(folder)
        return folders

    def _url_of(self, function: str) -> Any:
        """The properties of a Function URL that is a resource of its own, if it is made."""
        for resource in self._resources.values():
            if resource.get("Type") != _URL:
                continue
            condition = resource.get("Condition")
            if condition is not None and not self._resolver.condition(condition):
                continue
            properties = self._resolver.resolve(resource.get("Properties") or {})
            # A name, or an ARN whose seventh part is the name.
            target = str(properties.get("TargetFunctionArn")).split(":")
            if target[6 if len(target) > 6 else 0] == self._name(function):
                return properties
        return None

    def _name(self, logical_id: str) -> str:
        properties = self._resources[logical_id].get("Properties") or {}
        return _text(self._resolver.resolve(properties.get("FunctionName")), logical_id)

    def _reference(self, name: str) -> Any:
        resource = self._resources.get(name)
        kind = (resource or {}).get("Type")
        if kind == _FUNCTION:
            return self._name(name)
        if kind == _LAYER:
            return name
        owner = self._owner_of_alias(name)
        if owner is not None:
            arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{self._name(owner)}"
            return f"{arn}:{self._alias_of(owner)}"
        return Unresolved(f"resource {name}")

    def _attribute(self, resource: str, attribute: str) -> Any:
        kind = self._resources.get(resource, {}).get("Type")
        if kind == _FUNCTION and attribute == "Arn":
            return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{self._name(resource)}"
        if kind == _FUNCTION and attribute == "Alias":
            return self._reference(f"{resource}.Alias")
        return Unresolved(f"{resource}.{attribute}")

    def _alias_of(self, logical_id: str) -> Any:
        resource = self._resources[logical_id]
        if resource.get("Type") != _FUNCTION:
            return None
        properties = resource.get("Properties") or {}
        return properties.get("AutoPublishAlias", self._globals.get("AutoPublishAlias"))

    def _owner_of_alias(self, name: str) -> str | None:
        """SAM lets `Fn.Alias` and `FnAlias<name>` stand for the alias that it makes."""
        for logical_id in self._resources:
            alias = self._alias_of(logical_id)
            if alias and name in (f"{logical_id}.Alias", f"{logical_id}Alias{alias}"):
                return logical_id
        return None


def _merge(base: Any, own: Any) -> Any:
    """SAM's rule for Globals: maps are merged, lists are joined, other values replaced."""
    if isinstance(base, dict) and isinstance(own, dict) and not _is_intrinsic(own):
        keys = [*base, *(key for key in own if key not in base)]
        return {k: _merge(base[k], own[k]) if k in base and k in own else own.get(k, base.get(k))
                for k in keys}  # fmt: skip
    if isinstance(base, list) and isinstance(own, list):
        return [*base, *own]
    return own


def _is_intrinsic(value: dict[str, Any]) -> bool:
    return len(value) == 1 and next(iter(value)).startswith(("Fn::", "Ref"))


def _value(value: Any) -> str | Unresolved:
    if isinstance(value, Unresolved):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _text(value: Any, default: str) -> str:
    return value if isinstance(value, str) else default


def _optional_int(value: Any) -> int | None:
    return None if value is None or isinstance(value, Unresolved) else int(value)


def _url_mode(config: Any) -> UrlMode | None:
    if not isinstance(config, dict):
        return None
    return UrlMode(config.get("InvokeMode", UrlMode.BUFFERED))


def _log_settings(config: Mapping[str, Any]) -> dict[str, str | Unresolved]:
    names = {
        "LogFormat": "AWS_LAMBDA_LOG_FORMAT",
        "ApplicationLogLevel": "AWS_LAMBDA_LOG_LEVEL",
    }
    return {variable: str(config[key]) for key, variable in names.items() if key in config}


def _schedules(logical_id: str, events: Mapping[str, Any]) -> list[Schedule]:
    found = []
    for name, event in events.items():
        properties = event.get("Properties") or {}
        match event.get("Type"):
            case "Schedule":
                expression, scheduler = properties.get("Schedule"), False
            case "ScheduleV2":
                expression, scheduler = properties.get("ScheduleExpression"), True
            case _:
                continue
        if properties.get("Enabled") is False or properties.get("State") == "DISABLED":
            continue
        if not isinstance(expression, str):
            raise TemplateError(f"{logical_id}: schedule {name} has no expression")
        found.append(
            Schedule(
                name=_text(properties.get("Name"), f"{logical_id}{name}"),
                expression=expression,
                scheduler=scheduler,
                timezone=_text(properties.get("ScheduleExpressionTimezone"), "UTC"),
                input=properties.get("Input"),
            )
        )
    return found


def _retry_policy(properties: Mapping[str, Any]) -> RetryPolicy:
    config = properties.get("EventInvokeConfig") or {}
    destinations = config.get("DestinationConfig") or {}
    failure = destinations.get("OnFailure") or {}
    success = destinations.get("OnSuccess") or {}
    dead_letter = properties.get("DeadLetterQueue") or {}
    return RetryPolicy(
        retries=int(config.get("MaximumRetryAttempts", 2)),
        max_age_s=float(config.get("MaximumEventAgeInSeconds", 6 * 3600)),
        on_failure=_target(failure.get("Destination"), failure.get("Type")),
        on_success=_target(success.get("Destination"), success.get("Type")),
        dead_letter=_target(dead_letter.get("TargetArn"), dead_letter.get("Type")),
    )


def _target(destination: Any, kind: Any) -> str | None:
    """An ARN where there is one; a queue or topic that SAM would make is known by its kind."""
    if isinstance(destination, Unresolved):
        return destination.what
    return str(destination or kind) if destination or kind else None
