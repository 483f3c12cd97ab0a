"""The compose file offers what the functions' settings expect."""

from pathlib import Path
from typing import Any

import yaml

COMPOSE = Path(__file__).resolve().parents[2] / "local" / "compose.yaml"


def services() -> dict[str, Any]:
    document = yaml.safe_load(COMPOSE.read_text())
    found: dict[str, Any] = document["services"]
    return found


def test_every_service_is_checked_kept_and_bound_to_this_machine_only() -> None:
    document = yaml.safe_load(COMPOSE.read_text())
    for name, service in document["services"].items():
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        assert service["volumes"][0].split(":")[0] in document["volumes"], name


def test_the_ports_are_those_of_the_addresses_in_its_own_heading() -> None:
    ports = {name: service["ports"][0].split(":")[1] for name, service in services().items()}
    assert ports == {
        "mongo": "27017",
        "postgres": "5432",
        "ollama": "11434",
        "localstack": "4566",
    }
    heading = COMPOSE.read_text().partition("name:")[0]
    for name in ("mongo", "postgres", "ollama"):
        assert f"localhost:{ports[name]}" in heading
