"""Reads the environment, once, into one checked value; nothing else in the platform reads it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from lambent.choices import Overflow, Titles
from lambent.errors import ConfigError
from lambent.secret_references import forget, is_reference, resolve
from lambent.setting_values import (
    McpServer,
    ModelPrice,
    dsn,
    mcp_servers,
    mcp_tokens,
    model_prices,
    store_uri,
    tokens_of,
)
from lambent.tls import certificates, is_local

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


def _text(value: str) -> str:
    return value


def _flag(value: str) -> bool:
    lowered = value.lower()
    if lowered in _TRUE:
        return True
    if lowered in _FALSE:
        return False
    raise ValueError("must be true or false")


def _names(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _number(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], Any]:
    def parse(value: str) -> float:
        try:
            number = kind(value)
        except ValueError:
            raise ValueError(f"must be {'a whole number' if kind is int else 'a number'}") from None
        if not low <= number <= high:
            raise ValueError(f"must be from {low:g} to {high:g}")
        return number

    return parse


class Tracing(StrEnum):
    """Where spans go."""

    OFF = "off"
    XRAY = "xray"
    OTLP = "otlp"


def _one_of(kind: type[StrEnum]) -> Callable[[str], str]:
    def parse(value: str) -> str:
        try:
            return kind(value.lower()).value
        except ValueError:
            *others, last = kind
            raise ValueError(f"must be {', '.join(others)} or {last}") from None

    return parse


def _level(value: str) -> str:
    level = value.upper()
    if level not in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}:
        raise ValueError("must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL")
    return level


def _host(value: str) -> str:
    # Ollama itself takes "host", "host:port" and full addresses in OLLAMA_HOST; so do we.
    address = value if "://" in value else f"http://{value}"
    parts = urlsplit(address)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be an http(s) address such as http://localhost:11434")
    _ = parts.port  # raises ValueError on a port that is none
    if parts.port is None and "://" not in value:
        address = f"{address}:11434"
    return address.rstrip("/")


def _base_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.netloc or set(value) & set(" ;,'\""):
        raise ValueError("must be an http(s) address such as https://chat.example.com")
    return f"{parts.scheme}://{parts.netloc}"


def _hosts(value: str) -> str:
    """One host or several, with commas between them; none twice."""
    hosts = [_host(part.strip()) for part in value.split(",") if part.strip()]
    if not hosts:
        raise ValueError("must name a host")
    return ",".join(dict.fromkeys(hosts))


def _origin_secret(value: str) -> str:
    if len(value) < 16 or not (value.isascii() and value.isprintable()) or " " in value:
        raise ValueError("must be 16 or more printable characters without a space")
    return value


def setting(
    parse: Callable[[str], Any], doc: str, *, default: Any = MISSING, secret: bool = False
) -> Any:
    """One field of `Settings`: its parser, the README's sentence about it, and its default."""
    metadata = {"parse": parse, "doc": doc, "secret": secret}
    if default is MISSING:
        return field(metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """The whole configuration. A field `mongo_uri` is the environment variable `MONGO_URI`."""

    mongo_uri: str = setting(
        store_uri("mongodb", "mongodb+srv"), "Where workflow state and events live.", secret=True
    )
    mongo_db_name: str = setting(_text, "The MongoDB database.", default="lambent")
    postgres_dsn: str = setting(dsn, "Where keys, limits and the shared breaker live.", secret=True)
    mongo_ca: str = setting(
        certificates,
        "Certificates that verify MongoDB's: a file's path or PEM text (may be a reference).",
        default="",
        secret=True,
    )
    postgres_ca: str = setting(
        certificates,
        "Certificates that verify Postgres': a file's path or PEM text (may be a reference).",
        default="",
        secret=True,
    )
    ollama_host: str = setting(
        _hosts, "The model servers, with commas between them.", default="http://localhost:11434"
    )
    ollama_api_key: str = setting(
        _text, "Sent to the model server as a bearer token, if set.", default="", secret=True
    )
    ollama_model: str = setting(
        _text, "The model used where a request names none.", default="smollm2:135m"
    )
    ollama_max_inflight: int = setting(
        _number(int, 1, 1000), "Generations at once on each host, over all functions.", default=4
    )
    ollama_connect_timeout_s: float = setting(
        _number(float, 0.1, 60), "Limit for connecting to the model server.", default=3.0
    )
    ollama_first_token_timeout_s: float = setting(
        _number(float, 0.1, 900),
        "Limit for the first token (a model may have to be loaded).",
        default=120.0,
    )
    ollama_next_token_timeout_s: float = setting(
        _number(float, 0.1, 900), "Limit between two tokens.", default=30.0
    )
    slot_wait_s: float = setting(
        _number(float, 0, 300), "How long a chat waits for a model slot before 503.", default=10.0
    )
    auth_enabled: bool = setting(_flag, "Whether an API key is required.", default=True)
    rate_limit_max_requests: int = setting(
        _number(int, 1, 1_000_000), "Requests a client may send a minute.", default=100
    )
    model_prices: tuple[ModelPrice, ...] = setting(
        model_prices,
        "What a million tokens of each model cost, as JSON: "
        '`{"llama3.2": {"prompt": 0.1, "completion": 0.4}}`; `*` stands for any other model.',
        default=(),
    )
    breaker_failures: int = setting(
        _number(int, 1, 1000), "Failures in a row that open the breaker.", default=5
    )
    breaker_open_s: float = setting(
        _number(float, 0.1, 3600), "How long the breaker stays open before a probe.", default=30.0
    )
    breaker_successes: int = setting(
        _number(int, 1, 1000), "Successful probes that close the breaker.", default=3
    )
    agent_modules: tuple[str, ...] = setting(
        _names,
        "Modules that register agents and workflows; of a package, all its modules.",
        default=("lambent_agents",),
    )
    news_feeds: tuple[str, ...] = setting(
        _names,
        "Feeds the news agent reads where a request names none.",
        default=("https://hnrss.org/frontpage", "https://feeds.bbci.co.uk/news/rss.xml"),
    )
    news_feed_hosts: tuple[str, ...] = setting(
        _names,
        "Hosts the news agent may read feeds from; `*` before a dot stands for any sub-domain. "
        "Another port, or an address that is not public, counts only as `host:port`.",
        default=("hnrss.org", "feeds.bbci.co.uk"),
    )
    fetch_hosts: tuple[str, ...] = setting(
        _names,
        "Hosts the tool `fetch_page` may read from; written as in `NEWS_FEED_HOSTS`.",
        default=(),
    )
    mcp_servers: tuple[McpServer, ...] = setting(
        mcp_servers, "MCP servers that agents may name, as `name=address,…`.", default=()
    )
    mcp_tokens: str = setting(
        mcp_tokens,
        "Bearer tokens of those servers, as `name=token,…` (may be a reference).",
        default="",
        secret=True,
    )
    embedding_model: str = setting(
        _text, "The model behind the tools `remember` and `recall`.", default="all-minilm"
    )
    conversation_tokens: int = setting(
        _number(int, 256, 10_000_000),
        "The window that a kept conversation is fitted into where a request sets no `num_ctx`.",
        default=4096,
    )
    max_num_ctx: int = setting(
        _number(int, 256, 1_048_576),
        "The largest `num_ctx` of a request: for each other one Ollama loads the model anew.",
        default=8192,
    )
    conversation_overflow: str = setting(
        _one_of(Overflow),
        "What becomes of exchanges that no longer fit: `drop` or `summarise`.",
        default=Overflow.DROP.value,
    )
    conversation_titles: str = setting(
        _one_of(Titles),
        "A conversation's title: the user's first `words`, or by the `model`.",
        default=Titles.WORDS.value,
    )
    keep_alive_s: float = setting(
        _number(float, 0.1, 60), "Silence after which a stream sends a comment.", default=10.0
    )
    step_function: str = setting(
        _text, "The function, with its alias, that advances runs.", default="lambent-step:live"
    )
    deliver_function: str = setting(
        _text, "The function, with its alias, that delivers events.", default="lambent-deliver:live"
    )
    poller_function: str = setting(
        _text,
        "The function, with its alias, that finds due documents.",
        default="lambent-poller:live",
    )
    step_concurrency: int = setting(
        _number(int, 1, 1000), "Step functions that the poller keeps busy at once.", default=10
    )
    step_batch: int = setting(
        _number(int, 1, 100), "Runs that one step function advances at once.", default=10
    )
    retention_days: float = setting(
        _number(float, 0.01, 3650), "Days that an ended run is kept.", default=30.0
    )
    webhook_allow_loopback: bool = setting(
        _flag, "Whether webhooks may call this machine; for tests and local use.", default=False
    )
    callback_base_url: str = setting(
        _base_url,
        "What the one-time addresses of `step.callback` begin with: the gateway, from outside.",
        default="",
    )
    chat_base_url: str = setting(
        _base_url,
        "Where the admin pages reach the chat function, if not under their own address.",
        default="",
    )
    live_stream_s: float = setting(
        _number(float, 0.5, 900),
        "What a stream to an admin page lasts at most; the page then asks for the next one.",
        default=60.0,
    )
    origin_secret: str = setting(
        _origin_secret,
        "What the front sends as `x-lambent-origin`; set, other requests are refused.",
        default="",
        secret=True,
    )
    origin_secret_other: str = setting(
        _origin_secret,
        "A second value that is good too, while the first is being changed.",
        default="",
        secret=True,
    )
    aws_endpoint_url_lambda: str = setting(
        _text, "Where functions are invoked, if not at AWS.", default=""
    )
    aws_region: str = setting(_text, "The region of the functions.", default="us-east-1")
    aws_access_key_id: str = setting(_text, "Set by Lambda.", default="", secret=True)
    aws_secret_access_key: str = setting(_text, "Set by Lambda.", default="", secret=True)
    aws_session_token: str = setting(_text, "Set by Lambda.", default="", secret=True)
    aws_container_credentials_full_uri: str = setting(
        _text, "Set by Lambda where SnapStart is on.", default=""
    )
    aws_container_authorization_token: str = setting(
        _text, "Set by Lambda where SnapStart is on.", default="", secret=True
    )
    aws_lambda_initialization_type: str = setting(
        _text, "Set by Lambda: how environments are made.", default="on-demand"
    )
    tracing: str = setting(
        _one_of(Tracing),
        "Whether spans are made: `off`, `xray` or `otlp`.",
        default=Tracing.OFF.value,
    )
    tracing_share: float = setting(
        _number(float, 0, 1), "Share of traces that are kept.", default=1.0
    )
    otel_exporter_otlp_endpoint: str = setting(
        _text, "The collector that spans are sent to.", default="http://localhost:4318"
    )
    otel_exporter_otlp_headers: str = setting(
        _text,
        "Sent to the collector, as `name=value,…` (may be a reference).",
        default="",
        secret=True,
    )
    aws_xray_daemon_address: str = setting(
        _text, "Set by Lambda where it traces.", default="169.254.100.1:2000"
    )
    stack_name: str = setting(
        _text, "Whose metrics these are: the value of their dimension `stack`.", default="lambent"
    )
    log_level: str = setting(_level, "Lowest level that is logged.", default="INFO")

    @property
    def origin_secrets(self) -> tuple[str, ...]:
        """The values of `x-lambent-origin` that are good; none: any request is."""
        return tuple(one for one in (self.origin_secret, self.origin_secret_other) if one)

    @property
    def ollama_hosts(self) -> tuple[str, ...]:
        """The model servers, the preferred one first."""
        return tuple(self.ollama_host.split(","))

    @property
    def otlp_headers(self) -> Mapping[str, str]:
        """What a collector is told beside the spans."""
        pairs = (one.partition("=") for one in _names(self.otel_exporter_otlp_headers))
        return {name.strip(): value.strip() for name, _, value in pairs}

    def __repr__(self) -> str:
        # A settings value ends up in tracebacks and log lines; secrets must not.
        shown = (
            f"{f.name}={'***' if f.metadata['secret'] else getattr(self, f.name)!r}"
            for f in fields(self)
        )
        return f"Settings({', '.join(shown)})"


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read and check everything; raises `ConfigError` that lists every problem at once.

    An empty variable counts as unset: templates cannot leave a variable out. A secret may be
    named instead of given: `secretsmanager:<id>[#key]` or `ssm:<name>`.
    """
    source = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    problems: list[str] = []
    for one in fields(Settings):
        name = one.name.upper()
        raw = source.get(name, "").strip()
        if not raw:
            if one.default is MISSING:
                problems.append(f"{name} is not set: {one.metadata['doc']}")
            continue
        try:
            text = resolve(raw) if one.metadata["secret"] else raw
            values[one.name] = one.metadata["parse"](text)
        except ConfigError as error:
            problems.append(f"{name}: {error.detail}")
        except ValueError as error:
            said = "***" if one.metadata["secret"] else repr(raw)
            problems.append(f"{name} {error} (is {said})")
    problems += _open_letters(values)
    if problems:
        raise ConfigError(problems)
    return Settings(**values)


def x_ray_header() -> str:
    """Which trace the present invocation is a part of; the runtime sets it anew for each."""
    return os.environ.get("_X_AMZN_TRACE_ID", "")


def look_up_again(name: str, environ: Mapping[str, str] | None = None) -> str | None:
    """The present value of a secret that the variable `name` refers to; None if it is no reference.

    Blocks. Raises `ConfigError`.
    """
    raw = (os.environ if environ is None else environ).get(name, "").strip()
    if not is_reference(raw):
        return None
    forget()
    return resolve(raw)


def _open_letters(values: Mapping[str, Any]) -> list[str]:
    """A key or a token would be read by everybody on the way."""
    problems = []
    said = "must be https:// where {} is sent, or anybody on the way reads it"
    if values.get("ollama_api_key"):
        for host in values.get("ollama_host", "").split(","):
            problems += _open("OLLAMA_HOST", host, said.format("OLLAMA_API_KEY"))
    servers = {one.name: one.url for one in values.get("mcp_servers", ())}
    for name in tokens_of(values.get("mcp_tokens", "")):
        if name in servers:
            problems += _open("MCP_SERVERS", servers[name], said.format(f"the token of {name}"))
        else:
            problems.append(f"MCP_TOKENS has a token for {name}, which MCP_SERVERS does not name")
    return problems


def _open(setting: str, address: str, said: str) -> list[str]:
    parts = urlsplit(address)
    if parts.scheme != "http" or is_local(parts.hostname or ""):
        return []
    return [f"{setting} {said} (is http, to {parts.hostname})"]
