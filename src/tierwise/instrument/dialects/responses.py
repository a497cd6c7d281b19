"""The responses API: items of output, a status instead of finish reasons, typed stream events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tierwise.core.call import Answer, Request
from tierwise.core.outcome import Choice, ToolCall
from tierwise.instrument.dialects.base import Endpoint, Reading
from tierwise.instrument.dialects.values import (
    MALFORMED,
    error_type_of,
    extra,
    fault_of,
    fields,
    get,
    integer,
    mean_of,
    number,
    text_of,
    token_logprobs,
    usage_of,
)

_FINAL: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
_SILENT: Final = frozenset({"reasoning", "message", "function_call", "custom_tool_call", "compaction"})
_PENDING: Final = frozenset({"queued", "in_progress"})  # only in the background


def format_of(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """`text.format` of a request, empty when there is none."""
    text = body.get("text")
    found = text.get("format") if isinstance(text, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def finish_reason_of(response: Any, *, has_tools: bool) -> str | None:
    """The status in the chat API's words: `stop`, `tool_calls`, `length`, `content_filter`, `cancelled`; else `None`."""
    status = get(response, "status")
    if status == "completed":
        return "tool_calls" if has_tools else "stop"
    if status == "incomplete":
        reason = get(get(response, "incomplete_details"), "reason")
        return "length" if reason in (None, "max_output_tokens") else text_of(reason)
    return "cancelled" if status == "cancelled" else None


def choice_of(response: Any) -> Choice:
    """All output items of a response as one choice."""
    texts: list[str] = []
    refusals: list[str] = []
    tools: list[ToolCall] = []
    found: list[float] = []
    other = get(response, "status") in _PENDING
    output = get(response, "output")
    for item in output if isinstance(output, list) else ():
        kind = get(item, "type")
        if kind == "message":
            content = get(item, "content")
            for part in content if isinstance(content, list) else ():
                text, refusal = get(part, "text"), get(part, "refusal")
                if isinstance(text, str):
                    texts.append(text)
                elif isinstance(refusal, str):
                    refusals.append(refusal)
                logprobs = get(part, "logprobs")
                if logprobs:
                    found += token_logprobs(logprobs)
        elif kind in ("function_call", "custom_tool_call"):
            is_json = kind == "function_call"
            arguments = get(item, "arguments" if is_json else "input")
            tools.append(
                ToolCall(
                    name=text_of(get(item, "name")) or "",
                    arguments=arguments if isinstance(arguments, str) else None,
                    json=is_json,
                )
            )
        elif kind not in _SILENT:
            other = True
    return Choice(
        text="".join(texts) if texts else None,
        refusal="".join(refusals) or None,
        finish_reason=finish_reason_of(response, has_tools=bool(tools)),
        tool_calls=tuple(tools),
        has_other_output=other,
        mean_logprob=mean_of(found) if found else None,
    )


def reading_of(response: Any) -> Reading:
    """Read a whole response object."""
    choice = choice_of(response)
    status = get(response, "status")
    error_type = None
    if status == "failed":
        error_type = error_type_of(get(response, "error"))
    elif choice.text is None and not choice.tool_calls:
        error_type = fault_of(response, "output")
        if error_type == MALFORMED and (status == "incomplete" or status in _PENDING):
            error_type = None
    return Reading(
        answer=Answer(
            id=text_of(get(response, "id")),
            model=text_of(get(response, "model")),
            finish_reasons=(choice.finish_reason,) if choice.finish_reason else (),
            service_tier=text_of(get(response, "service_tier")),
            output_chars=len(choice.text or ""),
        ),
        usage=usage_of(get(response, "usage")),
        choices=(choice,),
        error_type=error_type,
        pending=status in _PENDING,
    )


class ResponsesStream:
    """Reads the typed events of one response stream; the last event carries the whole response."""

    __slots__ = ("_created", "_error", "_final", "_texts")

    def __init__(self) -> None:
        self._created: Any = None
        self._final: Any = None
        self._error: Any = None
        self._texts: list[str] = []

    def see(self, chunk: Any) -> bool:
        """Take note of an event; never one that holds usage alone."""
        found = fields(chunk)
        kind = found.get("type")
        if kind is None and get(chunk, "event") == "error":  # as openai before 2.0 hands it on
            chunk, kind = get(chunk, "data"), "error"
        if kind == "response.output_text.delta":
            delta = found.get("delta")
            if isinstance(delta, str):
                self._texts.append(delta)
        elif kind in _FINAL:
            self._final = found.get("response")
        elif kind == "error":
            self._error = chunk
        elif self._created is None and found.get("response") is not None:
            self._created = found["response"]
        return False

    @property
    def finished(self) -> bool:
        """The final event was seen."""
        return self._final is not None

    def reading(self) -> Reading:
        """What the stream has held so far."""
        if self._final is not None:
            return reading_of(self._final)
        text = "".join(self._texts)
        created = self._created
        error = self._error if self._error is not None else extra(created, "error")
        return Reading(
            answer=Answer(id=text_of(get(created, "id")), model=text_of(get(created, "model")), output_chars=len(text)),
            usage=None,
            choices=(Choice(text=text or None),),
            error_type=error_type_of(error) if error else None,
            pending=not error,
        )


class Responses:
    """`POST /responses`."""

    expects_answer = True
    asks_usage = False

    def request(self, body: Mapping[str, Any], endpoint: Endpoint, *, stream: bool) -> Request:
        """Read the request body; odd values are left out."""
        kind = format_of(body).get("type")
        is_json = kind in ("json_schema", "json_object")
        conversation = body.get("conversation")
        return Request(
            operation="chat",
            api_type="responses",
            provider=endpoint.provider,
            model=text_of(body.get("model")) or "",
            server_address=endpoint.address,
            server_port=endpoint.port,
            stream=stream,
            expects_json=is_json,
            output_type="json" if is_json else ("text" if kind == "text" else None),
            temperature=number(body.get("temperature")),
            top_p=number(body.get("top_p")),
            max_tokens=integer(body.get("max_output_tokens")),
            reasoning_level=text_of(get(body.get("reasoning"), "effort")),
            previous_response_id=text_of(body.get("previous_response_id")),
            conversation_id=text_of(conversation) or text_of(get(conversation, "id")),
            service_tier=text_of(body.get("service_tier")),
        )

    def response(self, value: Any) -> Reading:
        """Read a whole response."""
        return reading_of(value)

    def stream(self) -> ResponsesStream:
        """A reader for one stream."""
        return ResponsesStream()

    def output_schema(self, body: Mapping[str, Any]) -> Mapping[str, object] | None:
        """The schema of `text.format: {type: json_schema}`."""
        schema = format_of(body).get("schema")
        return schema if isinstance(schema, Mapping) else None

    def tool_schema(self, body: Mapping[str, Any], name: str) -> Mapping[str, object] | None:
        """The schema of a function tool's parameters."""
        tools = body.get("tools")
        for tool in tools if isinstance(tools, (list, tuple)) else ():
            if get(tool, "name") == name:
                schema = get(tool, "parameters")
                return schema if isinstance(schema, Mapping) else None
        return None
