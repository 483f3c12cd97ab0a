"""Writes messages as the model was trained to read them (ChatML), and reads its tool calls."""

import bisect
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

STOPS = ("<|im_start|>", "<|im_end|>")
TOOL_PROMPT = """You are an expert in composing functions. You are given a question and a set of \
possible functions.
Based on the question, you will need to make one or more function/tool calls to achieve the purpose.
If none of the functions can be used, point it out and refuse to answer.
If the given question lacks the parameters required by the function, also point it out.

You have access to the following tools:
<tools>{tools}</tools>

The output MUST strictly adhere to the following format, and NO other text MUST be included.
The example format is as follows. Please make sure the parameter type is correct. If no function \
call is needed, please make the tool calls an empty list '[]'.
<tool_call>[
{{"name": "func_name1", "arguments": {{"argument1": "value1", "argument2": "value2"}}}}
]</tool_call>"""
CALL_OPENINGS = ("<tool_call>", "[", "{")

# The same in the language of Ollama's templates, for `/api/show` and for a real Ollama.
TEMPLATE = (
    """{{- if .Tools }}<|im_start|>system
{{ if .System }}{{ .System }}
{{ end }}"""
    + TOOL_PROMPT.replace("{tools}", "{{ range .Tools }}{{ . }}{{ end }}")
    .replace("{{{{", "{")
    .replace('{{"', '{"')
    .replace('"}}}}', '"}}')
    + """<|im_end|>
{{ end }}{{- range .Messages }}{{ if not (and $.Tools (eq .Role "system")) }}<|im_start|>{{ .Role }}
{{ if .ToolCalls }}<tool_call>[{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": \
{{ .Function.Arguments }}}{{ end }}]</tool_call>{{ else }}{{ .Content }}{{ end }}<|im_end|>
{{ end }}{{ end }}<|im_start|>assistant
"""
)


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat."""

    role: str
    content: str
    tool_calls: tuple[dict[str, Any], ...] = ()


def _block(role: str, content: str) -> str:
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"


def _compact(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def render(messages: Sequence[Message], *, tools: Sequence[dict[str, Any]] = ()) -> str:
    """The prompt, up to where the assistant speaks; a last assistant message is gone on with."""
    system = "\n".join(m.content for m in messages if m.role == "system") if tools else ""
    parts = []
    if tools:
        offered = TOOL_PROMPT.format(tools="".join(_compact(tool) for tool in tools))
        parts.append(_block("system", f"{system}\n{offered}" if system else offered))
    for message in messages:
        if tools and message.role == "system":
            continue
        content = message.content
        if message.tool_calls:
            calls = [call.get("function", {}) for call in message.tool_calls]
            content = f"<tool_call>{_compact(calls)}</tool_call>"
        parts.append(_block(message.role, content))
    if messages and messages[-1].role == "assistant" and not messages[-1].tool_calls:
        return "".join(parts).removesuffix("<|im_end|>\n")
    return "".join(parts) + "<|im_start|>assistant\n"


def fit(
    messages: Sequence[Message],
    *,
    tools: Sequence[dict[str, Any]],
    tokenize: Callable[[str], list[int]],
    room: int,
    keep: int,
) -> list[int]:
    """The prompt's tokens, at most `room`.

    The oldest messages go first, system messages and the last one stay; what is then still too
    long loses its middle, after `keep` tokens.
    """
    droppable = [n for n, message in enumerate(messages[:-1]) if message.role != "system"]

    def without(count: int) -> list[int]:
        dropped = set(droppable[:count])
        left = [message for n, message in enumerate(messages) if n not in dropped]
        return tokenize(render(left, tools=tools))

    tokens = without(0)
    if len(tokens) > room and droppable:
        fewest = bisect.bisect_left(
            range(1, len(droppable)), True, key=lambda count: len(without(count)) <= room
        )
        tokens = without(fewest + 1)
    return cut(tokens, room=room, keep=keep)


def cut(tokens: list[int], *, room: int, keep: int) -> list[int]:
    if len(tokens) <= room:
        return tokens
    kept = max(0, min(keep, room - 1))
    return tokens[:kept] + tokens[len(tokens) - (room - kept) :]


def may_be_calls(text: str) -> bool:
    """Whether what was said so far may still become tool calls."""
    said = text.lstrip()
    return any(said.startswith(o) or o.startswith(said) for o in CALL_OPENINGS)


def read_calls(text: str, *, names: set[str]) -> list[dict[str, Any]]:
    """Tool calls in what the model said; empty if it is anything else."""
    match = re.match(r"\s*<tool_call>(.*?)(?:</tool_call>|$)", text, re.DOTALL)
    try:
        value = json.loads(match[1] if match else text)
    except ValueError:
        return []
    calls = []
    for call in value if isinstance(value, list) else [value]:
        name = call.get("name") if isinstance(call, dict) else None
        if not isinstance(name, str) or name not in names:
            return []
        arguments = call.get("arguments", call.get("parameters", {}))
        if not isinstance(arguments, dict):
            return []
        calls.append({"function": {"name": name, "arguments": arguments}})
    return calls
