"""Asks a stack that has just started which of the services it was pointed at do not answer."""

import json
import urllib.error
from collections.abc import Mapping
from typing import Any

from local.direct import open_url

_LIMIT_S = 6.0
# As `/health/ready` calls them, and the variable that names each.
_VARIABLES = {"postgres": "POSTGRES_DSN", "mongo": "MONGO_URI", "models": "OLLAMA_HOST"}


def silent_services(url: str) -> list[str]:
    """One sentence for each service that fails its ping; none where the stack cannot say."""
    services = _checks(url).get("services")
    if not isinstance(services, Mapping):
        return []
    return [
        f"{_VARIABLES.get(name, name)} does not work yet: {check.get('detail')} "
        "What needs it answers 503 until it does."
        for name, check in services.items()
        if isinstance(check, Mapping) and check.get("status") == "failed"
    ]


def _checks(url: str) -> Mapping[str, Any]:
    try:
        with open_url(f"{url}/health/ready", timeout=_LIMIT_S) as answer:
            said = json.load(answer)
    except urllib.error.HTTPError as error:  # 503 brings the same document
        with error:
            said = _read(error)
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, Mapping) else {}


def _read(answer: urllib.error.HTTPError) -> Any:
    try:
        return json.load(answer)
    except ValueError:
        return {}
