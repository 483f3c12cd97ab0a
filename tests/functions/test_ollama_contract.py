"""One contract of Ollama's API: our model server, a real Ollama and the scripted one keep it."""

import asyncio
import contextlib
import itertools
import json
import math
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.model_server.engine import packaged_model
from local.model_server.prompts import TEMPLATE
from local.services import ModelServer, Reply, ScriptedModel, ServiceError
from local.services.process import Child, free_port

MODEL = "smollm2:135m"
REAL = ("lambent", "ollama")
ALL = (*REAL, "scripted")
QUESTION = [{"role": "user", "content": "Write a long story about a cat and a dog."}]
TIMINGS = {
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@dataclass(frozen=True, slots=True)
class Api:
    """One server under the contract."""

    kind: str
    host: str


def ollama_binary() -> Path:
    """A real Ollama; without one the test is skipped on a laptop and fails with CI=true."""
    named = os.environ.get("OLLAMA_BIN")
    go_path = os.environ.get("GOPATH", str(Path.home() / "go"))
    found = named or shutil.which("ollama") or str(Path(go_path) / "bin" / "ollama")
    if Path(found).exists():
        return Path(found)
    reason = "no ollama: `go install github.com/ollama/ollama@v0.6.5`, or name it in OLLAMA_BIN"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@contextlib.contextmanager
def real_ollama(folder: Path) -> Iterator[str]:
    binary, port = ollama_binary(), free_port()
    environment = {
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(folder / "models"),
        "OLLAMA_NUM_PARALLEL": "1",
        "HOME": str(folder),
    }
    host = f"http://127.0.0.1:{port}"
    server = Child(
        "ollama",
        [binary, "serve"],
        log_path=folder / "ollama.log",
        env=environment,
        death_signal=signal.SIGTERM,
    )
    try:
        server.wait_until_ready(lambda: httpx.get(host), timeout_s=30)
        modelfile = folder / "Modelfile"
        stops = "PARAMETER stop <|im_start|>\nPARAMETER stop <|im_end|>\n"
        modelfile.write_text(f'FROM {packaged_model()}\nTEMPLATE """{TEMPLATE}"""\n{stops}')
        create: list[str | Path] = [binary, "create", MODEL, "-f", modelfile]
        log_path = folder / "create.log"
        created = Child("ollama create", create, log_path=log_path, env=environment)
        if created.process.wait(timeout=120) != 0:
            raise ServiceError(created.log_since_start())
        yield host
    finally:
        server.stop([signal.SIGTERM], timeout_s=10)  # ends its runner too


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The hosts that were asked for so far, by kind; each is started once."""
    with contextlib.ExitStack() as stack:
        yield _Servers(stack, tmp_path_factory)


class _Servers(dict[str, str]):
    def __init__(self, stack: contextlib.ExitStack, folders: pytest.TempPathFactory) -> None:
        self._stack, self._folders = stack, folders

    def __missing__(self, kind: str) -> str:
        try:
            self._start(kind, self._folders.mktemp(kind))
        except ServiceError as error:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(str(error))
        return self[kind]

    def _start(self, kind: str, folder: Path) -> None:
        match kind:
            case "lambent":
                server = self._stack.enter_context(ModelServer.start(folder))
                self[kind] = server.host
            case "ollama":
                self[kind] = self._stack.enter_context(real_ollama(folder))
            case _:
                scripted = self._stack.enter_context(ScriptedModel.start())
                scripted.default = Reply.many(200, frame="word ", delay_s=0.01)
                self[kind] = scripted.host


@pytest.fixture
def ollama_api(request: pytest.FixtureRequest, servers: dict[str, str]) -> Api:
    return Api(request.param, servers[request.param])


@pytest.fixture
async def http(ollama_api: Api) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=ollama_api.host, timeout=120) as client:
        yield client


def held_by(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("ollama_api", kinds, indirect=True)


async def lines(http: httpx.AsyncClient, path: str, **body: Any) -> list[dict[str, Any]]:
    async with http.stream("POST", path, json={"model": MODEL, **body}) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"] == "application/x-ndjson"
        return [json.loads(line) async for line in answer.aiter_lines()]


async def chat(http: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    whole = {"model": MODEL, "messages": QUESTION, "stream": False, **body}
    answer = await http.post("/api/chat", json=whole)
    assert answer.status_code == 200, answer.text
    value: dict[str, Any] = answer.json()
    return value


@held_by(*ALL)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_root_says_that_it_runs(http: httpx.AsyncClient, method: str) -> None:
    answer = await http.request(method, "/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["content-length"] == "17"
    assert answer.text == ("Ollama is running" if method == "GET" else "")


@held_by(*ALL)
async def test_a_chat_streams_lines_and_ends_with_timings(http: httpx.AsyncClient) -> None:
    said = await lines(http, "/api/chat", messages=QUESTION, options={"num_predict": 8})
    *pieces, last = said
    assert pieces
    for piece in pieces:
        assert set(piece) == {"model", "created_at", "message", "done"}
        assert piece["done"] is False
        assert piece["message"]["role"] == "assistant"
        assert piece["message"]["content"]
    assert set(last) == {"model", "created_at", "message", "done_reason", "done", *TIMINGS}
    assert last["done"] is True
    assert last["message"] == {"role": "assistant", "content": ""}
    assert {line["model"] for line in said} == {MODEL}
    assert all(isinstance(last[name], int) and last[name] > 0 for name in TIMINGS)


@held_by(*ALL)
async def test_instants_are_utc_and_never_go_back(http: httpx.AsyncClient) -> None:
    said = await lines(http, "/api/chat", messages=QUESTION, options={"num_predict": 5})
    assert all(line["created_at"].endswith("Z") for line in said)
    instants = [datetime.fromisoformat(line["created_at"][:26].rstrip("Z")) for line in said]
    assert instants == sorted(instants)


@held_by(*ALL)
async def test_num_predict_ends_an_answer_with_reason_length(http: httpx.AsyncClient) -> None:
    answer = await chat(http, options={"num_predict": 4})
    assert answer["done_reason"] == "length"
    assert answer["eval_count"] == 4
    assert answer["message"]["content"]


@held_by(*ALL)
async def test_an_answer_in_one_piece_has_the_fields_of_the_last_line(
    http: httpx.AsyncClient,
) -> None:
    answer = await chat(http, options={"num_predict": 4})
    assert set(answer) == {"model", "created_at", "message", "done_reason", "done", *TIMINGS}
    assert set(answer["message"]) == {"role", "content"}


@held_by(*REAL)
async def test_durations_add_up_to_less_than_the_whole(http: httpx.AsyncClient) -> None:
    answer = await chat(http, options={"num_predict": 8})
    parts = ("load_duration", "prompt_eval_duration", "eval_duration")
    assert sum(answer[part] for part in parts) <= answer["total_duration"] * 1.05


@held_by(*REAL)
async def test_the_prompt_is_counted_as_the_template_writes_it(http: httpx.AsyncClient) -> None:
    hello = [{"role": "user", "content": "hi"}]
    answer = await chat(http, messages=hello, options={"num_predict": 1})
    assert answer["prompt_eval_count"] == 10


@held_by(*REAL)
async def test_a_stop_sequence_is_not_part_of_the_answer(http: httpx.AsyncClient) -> None:
    answer = await chat(http, options={"num_predict": 50, "stop": [" "], "seed": 3})
    assert answer["done_reason"] == "stop"
    assert " " not in answer["message"]["content"]


@held_by(*REAL)
async def test_a_stop_sequence_over_several_tokens_never_shows_its_beginning(
    http: httpx.AsyncClient,
) -> None:
    options = {"temperature": 0, "seed": 1, "num_predict": 30}
    whole = (await chat(http, options=options))["message"]["content"]
    stop = whole[12:24]
    cut = options | {"stop": [stop]}
    said = await lines(http, "/api/chat", messages=QUESTION, options=cut)
    told = "".join(line["message"]["content"] for line in said)
    assert told == whole[: whole.index(stop)]
    assert said[-1]["done_reason"] == "stop"


@held_by(*REAL)
async def test_the_same_seed_says_the_same_twice(http: httpx.AsyncClient) -> None:
    options = {"seed": 42, "temperature": 0.9, "num_predict": 12}
    first = await chat(http, options=options)
    again = await chat(http, options=options)
    assert first["message"] == again["message"]
    others = [await chat(http, options=options | {"seed": seed}) for seed in (7, 8, 9)]
    assert any(other["message"] != first["message"] for other in others)


@held_by(*REAL)
async def test_format_json_makes_a_json_object(http: httpx.AsyncClient) -> None:
    ask = [{"role": "user", "content": "Describe a cat as JSON."}]
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 12}, "happy": {"type": "boolean"}},
        "required": ["name", "happy"],
    }
    options = {"temperature": 0, "num_predict": 80}
    shaped = await chat(http, messages=ask, format=schema, options=options)
    value = json.loads(shaped["message"]["content"])
    assert set(value) == {"name", "happy"}
    assert isinstance(value["happy"], bool)
    free = await chat(http, messages=ask, format="json", options=options)
    assert free["message"]["content"].lstrip().startswith("{")


@held_by(*REAL)
@pytest.mark.parametrize("stream", [True, False])
async def test_an_unknown_format_is_refused(http: httpx.AsyncClient, stream: bool) -> None:
    body = {"model": MODEL, "messages": QUESTION, "format": "yaml", "stream": stream}
    answer = await http.post("/api/chat", json=body)
    assert answer.status_code == (200 if stream else 500)
    said = 'invalid format: "\\"yaml\\""; expected "json" or a valid JSON Schema object'
    assert answer.json() == {"error": said}


@held_by(*ALL)
async def test_generate_streams_responses(http: httpx.AsyncClient) -> None:
    said = await lines(http, "/api/generate", prompt="Tell me a story", options={"num_predict": 4})
    *pieces, last = said
    assert all(set(p) == {"model", "created_at", "response", "done"} for p in pieces)
    assert "".join(piece["response"] for piece in pieces)
    assert last["response"] == ""
    assert last["done_reason"] == "length"
    assert set(last) >= TIMINGS


@held_by(*REAL)
async def test_the_context_of_generate_carries_a_conversation_on(http: httpx.AsyncClient) -> None:
    body = {"model": MODEL, "stream": False, "options": {"num_predict": 4}}
    first = (await http.post("/api/generate", json=body | {"prompt": "hi"})).json()
    assert len(first["context"]) >= first["prompt_eval_count"]
    go_on = body | {"prompt": "hi", "context": first["context"]}
    second = (await http.post("/api/generate", json=go_on)).json()
    assert second["prompt_eval_count"] >= len(first["context"])
    raw = (await http.post("/api/generate", json=body | {"prompt": "hi", "raw": True})).json()
    assert raw["prompt_eval_count"] == 1
    assert "context" not in raw


@held_by(*ALL)
@pytest.mark.parametrize(
    ("path", "field"), [("/api/chat", "message"), ("/api/generate", "response")]
)
async def test_nothing_to_say_only_loads(http: httpx.AsyncClient, path: str, field: str) -> None:
    answer = await http.post(path, json={"model": MODEL})
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
async def test_an_unknown_model_is_404(http: httpx.AsyncClient, path: str, error: str) -> None:
    answer = await http.post(path, json={"model": "nope", "messages": QUESTION, "prompt": "x"})
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
    http: httpx.AsyncClient, body: bytes, error: str
) -> None:
    answer = await http.post("/api/chat", content=body)
    assert answer.status_code == 400
    assert answer.json() == {"error": error}


@held_by(*ALL)
async def test_broken_json_is_400(http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/chat", content=b"{bad")
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]


@held_by(*REAL)
async def test_an_option_of_a_wrong_type_is_500_and_an_unknown_one_is_nothing(
    http: httpx.AsyncClient,
) -> None:
    body = {"model": MODEL, "messages": QUESTION, "stream": False}
    wrong = await http.post("/api/chat", json=body | {"options": {"num_predict": "x"}})
    assert wrong.status_code == 500
    assert wrong.json() == {"error": 'option "num_predict" must be of type integer'}
    await chat(http, options={"no_such_option": 1, "num_predict": 1})


@held_by(*ALL)
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/api/chat"), ("POST", "/api/tags"), ("GET", "/api/nope")]
)
async def test_no_such_page_is_plain_404(http: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await http.request(method, path)
    assert answer.status_code == 404
    assert answer.text == "404 page not found"


@held_by(*ALL)
async def test_models_are_listed_with_their_details(http: httpx.AsyncClient) -> None:
    (model,) = (await http.get("/api/tags")).json()["models"]
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
async def test_a_loaded_model_is_listed_with_when_it_goes(http: httpx.AsyncClient) -> None:
    await chat(http, options={"num_predict": 1})
    (model,) = (await http.get("/api/ps")).json()["models"]
    fields = {"name", "model", "size", "digest", "details", "expires_at", "size_vram"}
    assert set(model) == fields


@held_by(*ALL)
async def test_a_version_is_told(http: httpx.AsyncClient) -> None:
    assert set((await http.get("/api/version")).json()) == {"version"}


@held_by(*REAL)
async def test_show_tells_what_the_model_is(http: httpx.AsyncClient) -> None:
    shown = (await http.post("/api/show", json={"model": MODEL})).json()
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
async def test_embeddings_are_unit_vectors_one_for_each_text(http: httpx.AsyncClient) -> None:
    body = {"model": MODEL, "input": ["a cat", "a dog"]}
    answer = (await http.post("/api/embed", json=body)).json()
    assert set(answer) == {
        *("model", "embeddings", "total_duration", "load_duration", "prompt_eval_count"),
    }
    first, second = answer["embeddings"]
    assert len(first) == len(second) == 576
    assert math.isclose(sum(x * x for x in first), 1, rel_tol=1e-3)
    assert first != second
    alone = (await http.post("/api/embed", json=body | {"input": "a cat"})).json()
    (same,) = alone["embeddings"]
    assert sum(x * y for x, y in zip(same, first, strict=True)) > 0.999


@held_by(*REAL)
async def test_embedding_refuses_what_is_no_text_or_too_long(http: httpx.AsyncClient) -> None:
    assert (await http.post("/api/embed", json={"model": MODEL, "input": []})).json() == {
        "model": MODEL,
        "embeddings": [],
    }
    wrong = await http.post("/api/embed", json={"model": MODEL, "input": ["a", 5]})
    assert (wrong.status_code, wrong.json()) == (400, {"error": "invalid input type"})
    long = {"model": MODEL, "input": "word " * 3000, "truncate": False}
    refused = await http.post("/api/embed", json=long)
    said = {"error": "input length exceeds maximum context length"}
    assert (refused.status_code, refused.json()) == (400, said)


@held_by(*REAL)
async def test_tools_are_taken_and_the_answer_keeps_its_shape(http: httpx.AsyncClient) -> None:
    ask = [{"role": "user", "content": "What is the weather in Paris?"}]
    options = {"num_predict": 8, "temperature": 0}
    answer = await chat(http, messages=ask, tools=[TOOL], options=options)
    assert answer["prompt_eval_count"] > 150
    assert answer["message"]["content"] or answer["message"]["tool_calls"]
    said = await lines(http, "/api/chat", messages=ask, tools=[TOOL], options=options)
    assert said[-1]["done"] is True


@held_by(*ALL)
async def test_the_first_line_comes_long_before_the_last(http: httpx.AsyncClient) -> None:
    body = {"model": MODEL, "messages": QUESTION, "options": {"num_predict": 60, "seed": 5}}
    came_at_s = []
    async with http.stream("POST", "/api/chat", json=body) as answer:
        async for _ in answer.aiter_lines():
            came_at_s.append(time.monotonic())
    assert len(came_at_s) > 10
    gaps = [b - a for a, b in itertools.pairwise(came_at_s)]
    assert sum(gap > 0.001 for gap in gaps) > len(gaps) / 4


@held_by(*REAL)
async def test_a_hang_up_frees_the_only_slot(http: httpx.AsyncClient) -> None:
    """NUM_PARALLEL is 1: had the long answer gone on, the next would wait for minutes."""
    endless = {"model": MODEL, "messages": QUESTION, "options": {"num_predict": 100_000}}
    async with http.stream("POST", "/api/chat", json=endless) as answer:
        async for _ in answer.aiter_lines():
            break
    await asyncio.wait_for(chat(http, options={"num_predict": 1}), timeout=20)


@held_by(*REAL)
async def test_several_at_once_are_all_answered(http: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(chat(http, options={"num_predict": 3}) for _ in range(5)))
    assert [answer["done_reason"] for answer in answers] == ["length"] * 5


@held_by(*REAL)
async def test_an_unknown_model_cannot_be_pulled(http: httpx.AsyncClient) -> None:
    said = await lines(http, "/api/pull", model="no-such-model-anywhere")
    assert said[0] == {"status": "pulling manifest"}
    assert said[-1]["error"].startswith("pull model manifest")


@held_by(*REAL)
async def test_keep_alive_zero_unloads(http: httpx.AsyncClient) -> None:
    await chat(http, options={"num_predict": 1})
    gone = (await http.post("/api/chat", json={"model": MODEL, "keep_alive": 0})).json()
    assert gone["done_reason"] == "unload"
    for _ in range(100):
        if not (await http.get("/api/ps")).json()["models"]:
            break
        await asyncio.sleep(0.1)
    assert (await http.get("/api/ps")).json() == {"models": []}
    assert (await chat(http, options={"num_predict": 1}))["done"] is True
