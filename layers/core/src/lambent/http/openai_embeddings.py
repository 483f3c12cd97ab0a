"""The body of `POST /v1/embeddings`, and its answer."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from lambent.http.openai_errors import BadParam, Unsupported
from lambent.http.openai_fields import IDLE_EMBEDDINGS, settle
from lambent.http.openai_requests import AGENT_PREFIX, checked
from lambent.http.openai_shapes import a_list, a_text, an_object
from lambent.models.values import Embeddings

_MOST_INPUTS: Final = 2048


class EmbeddingBody(BaseModel):
    """The fields with an effect."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    model: Annotated[str, Field(min_length=1, max_length=200)]
    input: Any
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, le=100_000)] | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingAsked:
    """`inputs` are not empty; `dimensions` None takes what the model gives."""

    model: str
    inputs: tuple[str, ...]
    as_base64: bool
    dimensions: int | None


def parse_embedding(value: Any) -> EmbeddingAsked:
    """Raises `BadParam` and its kin."""
    record = settle(an_object(value, "body"), idle=IDLE_EMBEDDINGS, refused={})
    body = checked(EmbeddingBody, record)
    if body.model.startswith(AGENT_PREFIX):
        raise Unsupported("An agent makes no embeddings; name a model.", param="model")
    return EmbeddingAsked(
        body.model, _read_input(body.input), body.encoding_format == "base64", body.dimensions
    )


def embedding_body(asked: EmbeddingAsked, found: Embeddings) -> dict[str, Any]:
    """OpenAI's `list` of `embedding`s; raises `BadParam` where there are too few dimensions."""
    vectors = [_cut(vector, asked.dimensions) for vector in found.vectors]
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _base64(vector) if asked.as_base64 else list(vector),
        }
        for index, vector in enumerate(vectors)
    ]
    tokens = found.usage.prompt_tokens
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": asked.model, "usage": usage}


def _read_input(value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else a_list(value, "input", most=_MOST_INPUTS)
    if not texts:
        raise BadParam("input must not be empty.", param="input")
    for number, text in enumerate(texts):
        at = "input" if text is value else f"input[{number}]"
        if isinstance(text, int | list) and not isinstance(text, bool):
            raise Unsupported(
                "input as token ids is not supported: models have their own tokens. Send text "
                "(LangChain: check_embedding_ctx_length=False).",
                param="input",
            )
        if not a_text(text, at):
            raise BadParam(f"{at} must not be empty.", param=at)
    return tuple(texts)


def _cut(vector: Sequence[float], dimensions: int | None) -> Sequence[float]:
    """The first `dimensions`, at length one again, as OpenAI and Ollama do it."""
    if dimensions is None or dimensions == len(vector):
        return vector
    if dimensions > len(vector):
        raise BadParam(f"The model has {len(vector)} dimensions.", param="dimensions")
    first = vector[:dimensions]
    length = math.sqrt(math.fsum(x * x for x in first)) or 1.0
    return [x / length for x in first]


def _base64(vector: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
