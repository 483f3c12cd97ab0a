"""The model server's words: options, formats, durations, prompts and tool calls."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.model_server import durations, options, prompts
from local.model_server.app import canonical
from local.model_server.options import OptionError
from local.model_server.prompts import Message


def words(text: str) -> list[int]:
    return [len(word) for word in text.split()]


def test_options_are_said_in_llamas_words() -> None:
    sampling = options.read({"num_predict": 7, "top_p": 1, "stop": ["x"]}, context=100)
    assert sampling.payload["n_predict"] == 7
    assert sampling.payload["top_p"] == 1.0
    assert sampling.payload["stop"] == ["x", "<|im_start|>", "<|im_end|>"]
    assert sampling.context == 100


def test_an_unlimited_answer_ends_at_ten_contexts() -> None:
    assert options.read({"num_ctx": 64}, context=100).payload["n_predict"] == 640
    assert options.read({"num_ctx": 5000}, context=100).context == 100


def test_only_an_unseeded_answer_reuses_the_cache() -> None:
    assert options.read({}, context=100).payload["cache_prompt"]
    assert not options.read({"seed": 1}, context=100).payload["cache_prompt"]
    assert not options.read({"temperature": 0}, context=100).payload["cache_prompt"]


@pytest.mark.parametrize(
    ("given_options", "kind"),
    [
        ({"num_predict": "x"}, "integer"),
        ({"seed": True}, "integer"),
        ({"temperature": []}, "float32"),
        ({"stop": "x"}, "array"),
        ({"stop": [1]}, "an array of strings"),
    ],
)
def test_an_option_of_a_wrong_type_is_named(given_options: dict[str, Any], kind: str) -> None:
    with pytest.raises(OptionError, match=f'"{next(iter(given_options))}" must be of .*{kind}'):
        options.read(given_options, context=100)


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_a_number_that_is_none_is_refused(number: float) -> None:
    with pytest.raises(OptionError):
        options.read({"num_predict": number}, context=100)


@pytest.mark.parametrize(
    ("text", "expected_s"),
    [("5m", 300), ("1h30m", 5400), ("1.5s", 1.5), (30, 30), ("-1s", -1), (-1, -1), ("0", 0)],
)
def test_a_duration_is_read_as_go_does(text: object, expected_s: float) -> None:
    assert durations.seconds(text) == expected_s


@pytest.mark.parametrize("text", ["banana", "", "5", "m", "5 m", "1h-3m", True, [], {}])
def test_what_is_no_duration_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"duration|type"):
        durations.seconds(text)


def test_names_mean_the_library_and_the_latest() -> None:
    assert canonical("registry.ollama.ai/library/SmolLM2:135M") == "smollm2:135m"
    assert canonical("smollm2") == "smollm2:latest"


def test_a_prompt_is_chatml_up_to_the_assistant() -> None:
    rendered = prompts.render([Message("system", "Be kind."), Message("user", "hi")])
    assert rendered == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_an_assistants_last_words_are_gone_on_with() -> None:
    rendered = prompts.render([Message("user", "Count."), Message("assistant", "One, two")])
    assert rendered.endswith("<|im_start|>assistant\nOne, two")


def test_the_oldest_messages_go_first_and_system_stays() -> None:
    said = [Message("system", "S"), *(Message("user", f"q{n}") for n in range(9))]
    seen: list[str] = []

    def tokenize(text: str) -> list[int]:
        seen.append(text)
        return words(text)

    tokens = prompts.fit(said, tools=[], tokenize=tokenize, room=11, keep=4)
    assert len(tokens) <= 11
    assert "system\nS" in seen[-1]
    assert "q8" in seen[-1]
    assert "q0" not in seen[-1]


@given(st.lists(st.integers()), st.integers(1, 50), st.integers(0, 60))
def test_a_cut_prompt_keeps_its_beginning_and_end(tokens: list[int], room: int, keep: int) -> None:
    cut = prompts.cut(tokens, room=room, keep=keep)
    assert len(cut) == min(len(tokens), room)
    assert cut[-1:] == tokens[-1:]
    if keep < room:
        assert cut[:keep] == tokens[:keep]


@pytest.mark.parametrize(
    ("said", "count"),
    [
        ('<tool_call>[{"name": "f", "arguments": {"a": 1}}]</tool_call>', 1),
        ('[{"name": "f", "arguments": {}}, {"name": "f", "arguments": {}}]', 2),
        ('{"name": "f", "parameters": {}}', 1),
        ('[{"name": "other", "arguments": {}}]', 0),
        ('[{"name": "f", "arguments": "x"}]', 0),
        ('[{"name": ["f"], "arguments": {}}]', 0),
        ("[]", 0),
        ("Paris is warm.", 0),
        ("<tool_call>[{", 0),
    ],
)
def test_tool_calls_are_read_or_left_as_text(said: str, count: int) -> None:
    assert len(prompts.read_calls(said, names={"f"})) == count


@given(st.text())
def test_any_words_are_read_without_an_error(said: str) -> None:
    prompts.may_be_calls(said)
    assert isinstance(prompts.read_calls(said, names={"f"}), list)
