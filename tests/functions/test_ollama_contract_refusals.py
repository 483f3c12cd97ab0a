"""One contract of Ollama's API, the rest: listings, embeddings, refusals and their words."""

import asyncio
import json
import math

import httpx
import pytest

from lambent.errors import ModelRefused
from lambent.models.failures import told_failure
from local.model_server.prompts import TEMPLATE

MODEL = "smollm2:135m"
QUESTION = [{"role": "user", "content": "Write a long story about a cat and a dog."}]
REAL = ("lambent", "ollama")
ALL = (*REAL, "scripted")


def held_by(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("ollama_api", kinds, indirect=True)


async def say_a_word(ollama_api: httpx.AsyncClient) -> None:
    body = {"model": MODEL, "messages": QUESTION, "stream": False, "options": {"num_predict": 1}}
    answer = await ollama_api.post("/api/chat", json=body)
    assert answer.json()["done_reason"] == "length"


@held_by(*ALL)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_root_says_that_it_runs(ollama_api: httpx.AsyncClient, method: str) -> None:
    answer = await ollama_api.request(method, "/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["content-length"] == "17"
    assert answer.text == ("Ollama is running" if method == "GET" else "")


@held_by(*REAL)
@pytest.mark.parametrize("stream", [True, False])
async def test_an_unknown_format_is_refused(ollama_api: httpx.AsyncClient, stream: bool) -> None:
    body = {"model": MODEL, "messages": QUESTION, "format": "yaml", "stream": stream}
    answer = await ollama_api.post("/api/chat", json=body)
    assert answer.status_code == (200 if stream else 500)
    said = 'invalid format: "\\"yaml\\""; expected "json" or a valid JSON Schema object'
    assert answer.json() == {"error": said}


@held_by("ollama")
async def test_a_schema_that_is_none_is_told_like_a_fault(ollama_api: httpx.AsyncClient) -> None:
    body = {"model": MODEL, "messages": QUESTION, "format": {"type": "nonsense"}}
    answer = await ollama_api.post("/api/chat", json=body)
    assert answer.status_code == 200
    error = told_failure(answer.json()["error"])
    assert isinstance(error, ModelRefused), error  # no failure of the host's


@held_by(*ALL)
@pytest.mark.parametrize(
    ("path", "field"), [("/api/chat", "message"), ("/api/generate", "response")]
)
async def test_nothing_to_say_only_loads(
    ollama_api: httpx.AsyncClient, path: str, field: str
) -> None:
    answer = await ollama_api.post(path, json={"model": MODEL})
    assert answer.status_code == 200
    value = answer.json()
    assert set(value) == {"model", "created_at", field, "done_reason", "done"}
    assert (value["done"], value["done_reason"]) == (True, "load")


@held_by(*ALL)
@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/api/chat", 'model "nope" not found, try pulling it first'),
        ("/api/embed", 'model "nope" not found, try pulling it first'),
        ("/api/generate", "model 'nope' not found"),
        ("/api/show", "model 'nope' not found"),
    ],
)
async def test_an_unknown_model_is_404(
    ollama_api: httpx.AsyncClient, path: str, error: str
) -> None:
    answer = await ollama_api.post(
        path, json={"model": "nope", "messages": QUESTION, "prompt": "x"}
    )
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    assert answer.json() == {"error": error}


@held_by(*REAL)
@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "missing request body"),
        (b"[]", "json: cannot unmarshal array into Go value of type api.ChatRequest"),
        (b"{}", "model is required"),
        (
            b'{"model": 5}',
            "json: cannot unmarshal number into Go struct field ChatRequest.model of type string",
        ),
        (
            b'{"model": "smollm2:135m", "messages": "x"}',
            "json: cannot unmarshal string into Go struct field ChatRequest.messages"
            " of type []api.Message",
        ),
        (
            b'{"model": "smollm2:135m", "messages": [{"role": "user", "content": 7}]}',
            "json: cannot unmarshal number into Go struct field ChatRequest.messages.content"
            " of type string",
        ),
        (b'{"model": "smollm2:135m", "keep_alive": "banana"}', 'time: invalid duration "banana"'),
    ],
)
async def test_a_bad_body_is_400_in_the_same_words(
    ollama_api: httpx.AsyncClient, body: bytes, error: str
) -> None:
    answer = await ollama_api.post("/api/chat", content=body)
    assert answer.status_code == 400
    assert answer.json() == {"error": error}


@held_by(*ALL)
async def test_broken_json_is_400(ollama_api: httpx.AsyncClient) -> None:
    answer = await ollama_api.post("/api/chat", content=b"{bad")
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]


@held_by(*REAL)
async def test_an_option_of_a_wrong_type_is_500_and_an_unknown_one_is_nothing(
    ollama_api: httpx.AsyncClient,
) -> None:
    body = {"model": MODEL, "messages": QUESTION, "stream": False}
    wrong = await ollama_api.post("/api/chat", json=body | {"options": {"num_predict": "x"}})
    assert wrong.status_code == 500
    assert wrong.json() == {"error": 'option "num_predict" must be of type integer'}
    unknown = await ollama_api.post(
        "/api/chat", json=body | {"options": {"no_such_option": 1, "num_predict": 1}}
    )
    assert unknown.status_code == 200


@held_by(*ALL)
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/api/chat"), ("POST", "/api/tags"), ("GET", "/api/nope")]
)
async def test_no_such_page_is_plain_404(
    ollama_api: httpx.AsyncClient, method: str, path: str
) -> None:
    answer = await ollama_api.request(method, path)
    assert answer.status_code == 404
    assert answer.text == "404 page not found"


@held_by(*ALL)
async def test_models_are_listed_with_their_details(ollama_api: httpx.AsyncClient) -> None:
    (model,) = (await ollama_api.get("/api/tags")).json()["models"]
    assert model["name"] == model["model"] == MODEL
    assert set(model) == {"name", "model", "modified_at", "size", "digest", "details"}
    assert len(model["digest"]) == 64
    assert model["details"] | {"parent_model": ""} == {
        "parent_model": "",
        "format": "gguf",
        "family": "llama",
        "families": ["llama"],
        "parameter_size": "134.52M",
        "quantization_level": "Q4_1",
    }


@held_by(*ALL)
async def test_a_loaded_model_is_listed_with_when_it_goes(ollama_api: httpx.AsyncClient) -> None:
    await say_a_word(ollama_api)
    (model,) = (await ollama_api.get("/api/ps")).json()["models"]
    fields = {"name", "model", "size", "digest", "details", "expires_at", "size_vram"}
    assert set(model) == fields


@held_by(*ALL)
async def test_a_version_is_told(ollama_api: httpx.AsyncClient) -> None:
    assert set((await ollama_api.get("/api/version")).json()) == {"version"}


@held_by(*REAL)
async def test_show_tells_what_the_model_is(ollama_api: httpx.AsyncClient) -> None:
    shown = (await ollama_api.post("/api/show", json={"model": MODEL})).json()
    assert set(shown) == {
        *("modelfile", "parameters", "template", "details", "model_info", "tensors"),
        *("capabilities", "modified_at"),
    }
    assert shown["capabilities"] == ["completion", "tools"]
    assert shown["template"] == TEMPLATE
    info = shown["model_info"]
    assert info["general.architecture"] == "llama"
    assert info["general.parameter_count"] == 134515008
    assert info["llama.context_length"] == 8192
    assert info["tokenizer.ggml.tokens"] is None
    embedding = shown["tensors"][0]
    assert (embedding["name"], embedding["shape"]) == ("token_embd.weight", [576, 49152])


@held_by(*REAL)
async def test_embeddings_are_unit_vectors_one_for_each_text(ollama_api: httpx.AsyncClient) -> None:
    body = {"model": MODEL, "input": ["a cat", "a dog"]}
    answer = (await ollama_api.post("/api/embed", json=body)).json()
    assert set(answer) == {
        *("model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"),
    }
    first, second = answer["embeddings"]
    assert len(first) == len(second) == 576
    assert math.isclose(sum(x * x for x in first), 1, rel_tol=1e-3)
    assert first != second
    alone = (await ollama_api.post("/api/embed", json=body | {"input": "a cat"})).json()
    (same,) = alone["embeddings"]
    assert sum(x * y for x, y in zip(same, first, strict=True)) > 0.999


@held_by(*REAL)
async def test_embedding_refuses_what_is_no_text_or_too_long(ollama_api: httpx.AsyncClient) -> None:
    assert (await ollama_api.post("/api/embed", json={"model": MODEL, "input": []})).json() == {
        "model": MODEL,
        "embeddings": [],
    }
    wrong = await ollama_api.post("/api/embed", json={"model": MODEL, "input": ["a", 5]})
    assert (wrong.status_code, wrong.json()) == (400, {"error": "invalid input type"})
    long = {"model": MODEL, "input": "word " * 3000, "truncate": False}
    refused = await ollama_api.post("/api/embed", json=long)
    said = {"error": "input length exceeds maximum context length"}
    assert (refused.status_code, refused.json()) == (400, said)


@held_by(*REAL)
async def test_an_unknown_model_cannot_be_pulled(ollama_api: httpx.AsyncClient) -> None:
    answer = await ollama_api.post("/api/pull", json={"model": "no-such-model-anywhere"})
    assert answer.headers["content-type"] == "application/x-ndjson"
    said = [json.loads(line) for line in answer.text.splitlines()]
    assert said[0] == {"status": "pulling manifest"}
    assert said[-1]["error"].startswith("pull model manifest")


@held_by(*REAL)
async def test_keep_alive_zero_unloads(ollama_api: httpx.AsyncClient) -> None:
    await say_a_word(ollama_api)
    gone = (await ollama_api.post("/api/chat", json={"model": MODEL, "keep_alive": 0})).json()
    assert gone["done_reason"] == "unload"
    for _ in range(100):
        if not (await ollama_api.get("/api/ps")).json()["models"]:
            break
        await asyncio.sleep(0.1)
    assert (await ollama_api.get("/api/ps")).json() == {"models": []}
    await say_a_word(ollama_api)
