"""One name for each model, whatever a request calls it: prices, bookings and hosts go by that."""

from __future__ import annotations

from typing import Final

# What Ollama puts before and behind a short name (its types/model/name.go: ParseName).
_REGISTRY: Final = "registry.ollama.ai/"
_LIBRARY: Final = "library/"
_TAG: Final = ":latest"


def canonical(model: str) -> str:
    """The shortest name of the same model.

    `https://Registry.Ollama.ai/library/Llama3.2:latest` is `llama3.2`: a model server looks its
    models up without regard to case, and fills in scheme, registry, namespace and tag itself.
    """
    _, scheme, rest = model.lower().partition("://")
    name = rest if scheme else model.lower()
    return name.removeprefix(_REGISTRY).removeprefix(_LIBRARY).removesuffix(_TAG)
