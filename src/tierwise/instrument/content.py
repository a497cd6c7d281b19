"""Messages as the GenAI conventions write them; used only when the application asked for content to be recorded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tierwise.core.call import Content
from tierwise.core.outcome import Choice
from tierwise.instrument.dialects.values import content_text, get


def content_of(body: Mapping[str, Any], choices: Iterable[Choice]) -> Content:
    """The request's messages and the answer's choices as JSON texts in the conventions' message form."""
    system: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    instructions = body.get("instructions")
    if isinstance(instructions, str):
        system.append({"type": "text", "content": instructions})
    for message in _messages(body):
        role = get(message, "role")
        parts = _parts(message)
        if role in ("system", "developer"):
            system.extend(parts)
        else:
            messages.append({"role": role if isinstance(role, str) else "user", "parts": parts})
    tools = body.get("tools")
    return Content(
        input_messages=_json(messages) if messages else None,
        output_messages=_json([_output(choice) for choice in choices]),
        system_instructions=_json(system) if system else None,
        tool_definitions=_json(list(tools)) if isinstance(tools, (list, tuple)) and tools else None,
    )


def _messages(body: Mapping[str, Any]) -> list[Any]:
    for name in ("messages", "input", "prompt"):
        found = body.get(name)
        if isinstance(found, str):
            return [{"role": "user", "content": found}]
        if isinstance(found, (list, tuple)):
            return list(found)
    return []


def _parts(message: Any) -> list[dict[str, Any]]:
    if isinstance(message, str):
        return [{"type": "text", "content": message}]
    parts: list[dict[str, Any]] = []
    if get(message, "role") == "tool":
        return [{"type": "tool_call_response", "id": get(message, "tool_call_id"), "response": get(message, "content")}]
    text = content_text(get(message, "content"))
    if text is not None:
        parts.append({"type": "text", "content": text})
    for call in get(message, "tool_calls") or ():
        function = get(call, "function")
        parts.append(
            {
                "type": "tool_call",
                "id": get(call, "id"),
                "name": get(function, "name"),
                "arguments": get(function, "arguments"),
            }
        )
    return parts


def _output(choice: Choice) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    if choice.text:
        parts.append({"type": "text", "content": choice.text})
    if choice.refusal:
        parts.append({"type": "refusal", "content": choice.refusal})
    parts.extend({"type": "tool_call", "name": call.name, "arguments": call.arguments} for call in choice.tool_calls)
    return {"role": "assistant", "parts": parts, "finish_reason": choice.finish_reason or ""}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
