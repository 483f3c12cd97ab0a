"""Settings: parsed and checked in one place, and in step with template and README."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lambent.errors import ConfigError
from lambent.settings import Settings, load_settings

ROOT = Path(__file__).resolve().parents[2]
REQUIRED = {"MONGO_URI": "mongodb://localhost", "POSTGRES_DSN": "postgresql://localhost/lambent"}
# Set by Lambda itself, or only where functions do not run at AWS.
NOT_IN_TEMPLATE = {
    "AWS_REGION",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_XRAY_DAEMON_ADDRESS",
    "WEBHOOK_ALLOW_LOOPBACK",
}


def names() -> set[str]:
    return {one.name.upper() for one in fields(Settings)}


class Loader(yaml.SafeLoader):
    """Reads a template; what an intrinsic function would give is of no interest here."""


Loader.add_multi_constructor("!", lambda loader, suffix, node: f"!{suffix}")


def test_defaults_need_only_the_two_stores() -> None:
    settings = load_settings(REQUIRED)
    assert settings.auth_enabled
    assert settings.rate_limit_max_requests == 100


def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({"AUTH_ENABLED": "perhaps", "OLLAMA_HOST": "ftp://x", "LOG_LEVEL": "LOUD"})
    said = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 5
    for name in ("MONGO_URI", "POSTGRES_DSN", "AUTH_ENABLED", "OLLAMA_HOST", "LOG_LEVEL"):
        assert name in said


def test_a_secret_is_shown_neither_in_problems_nor_in_repr() -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings({**REQUIRED, "MONGO_URI": "hunter2"})
    assert "hunter2" not in str(caught.value)
    settings = load_settings({**REQUIRED, "POSTGRES_DSN": "postgresql://me:hunter2@db/x"})
    assert "hunter2" not in repr(settings)


@pytest.mark.parametrize(
    ("given_host", "meant"),
    [
        ("localhost", "http://localhost:11434"),
        ("localhost:1234", "http://localhost:1234"),
        ("https://models.example.com/", "https://models.example.com"),
        ("a, b:1,http://a:11434/", "http://a:11434,http://b:1"),
    ],
)
def test_a_model_host_is_read_as_ollama_reads_it(given_host: str, meant: str) -> None:
    assert load_settings({**REQUIRED, "OLLAMA_HOST": given_host}).ollama_host == meant


def test_a_model_has_one_price_whatever_it_is_called() -> None:
    price = '{"prompt": 1, "completion": 1}'
    prices = f'{{"llama3.2": {price}, "library/Llama3.2:latest": {price}}}'
    with pytest.raises(ConfigError, match=r"MODEL_PRICES.*llama3\.2 under two names"):
        load_settings({**REQUIRED, "MODEL_PRICES": prices})


@given(st.dictionaries(st.sampled_from(sorted(names())), st.text(max_size=40)))
def test_any_environment_gives_settings_or_a_list_of_problems(environ: dict[str, str]) -> None:
    try:
        load_settings(environ)
    except ConfigError as error:
        assert all(one.split()[0].removesuffix(":") in names() for one in error.problems)


def test_the_template_passes_every_setting_on() -> None:
    template = yaml.load((ROOT / "template.yaml").read_text(), Loader=Loader)
    passed = set(template["Globals"]["Function"]["Environment"]["Variables"])
    assert names() - passed == NOT_IN_TEMPLATE
    assert passed <= names()


def test_the_readme_describes_every_setting_with_its_default() -> None:
    rows = dict(
        re.findall(r"^\| `([A-Z_]+)` \| ([^|]*) \|", (ROOT / "README.md").read_text(), re.M)
    )
    assert set(rows) == names()
    for one in fields(Settings):
        shown = rows[one.name.upper()].strip()
        if one.default is MISSING:
            assert shown == "required"
        else:
            assert shown == f"`{readable(one.default)}`".replace("``", "")


def readable(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def test_a_secret_that_cannot_be_looked_up_is_one_of_the_problems(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError) as caught:
        load_settings({**REQUIRED, "MONGO_URI": "ssm:/lambent/mongo", "LOG_LEVEL": "LOUD"})
    assert [problem.split()[0].rstrip(":") for problem in caught.value.problems] == [
        "MONGO_URI",
        "LOG_LEVEL",
    ]
