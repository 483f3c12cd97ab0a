"""Puts what an MCP tool gave into words that a model can read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from lambent.agents.tools import ToolFailed

if TYPE_CHECKING:
    from mcp_types import CallToolResult

_NOTHING: Final = "The tool gave nothing back."


def result_text(result: CallToolResult) -> str:
    """Texts as they are, and of anything else what it is. Raises `ToolFailed` for an error."""
    parts = [_text(one) for one in result.content]
    if not parts and result.structured_content is not None:
        from pydantic_core import to_json

        parts = [to_json(result.structured_content, fallback=str).decode()]
    text = "\n".join(parts) or _NOTHING
    if result.is_error:
        raise ToolFailed(text)
    return text


def _text(block: Any) -> str:
    match block.type:
        case "text":
            return str(block.text)
        case "image" | "audio":
            return f"[{block.type}, {block.mime_type}, {_size(block.data)}; it is not shown]"
        case "resource_link":
            return f"[resource {block.name}: {block.uri}]"
        case "resource":
            return _resource(block.resource)
        case kind:
            return f"[{kind}; it is not shown]"


def _resource(resource: Any) -> str:
    text = getattr(resource, "text", None)
    if text is not None:
        return f"[resource {resource.uri}]\n{text}"
    kind = resource.mime_type or "data"
    return f"[resource {resource.uri}, {kind}, {_size(resource.blob)}; it is not shown]"


def _size(base64: str) -> str:
    return f"{len(base64) * 3 // 4} bytes"
