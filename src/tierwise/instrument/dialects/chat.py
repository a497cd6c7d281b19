"""Chat completions: requests and responses, with the oddities of compatible servers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tierwise.core.call import Request, Usage, make_answer, make_request
from tierwise.core.outcome import Choice, ToolCall, make_choice
from tierwise.instrument.dialects.base import Endpoint, Reading, make_reading
from tierwise.instrument.dialects.chatstream import ChatStream
from tierwise.instrument.dialects.values import (
    content_text,
    extra,
    fault_of,
    fields,
    get,
    integer,
    listed,
    mean_of,
    number,
    strings,
    text_of,
    token_logprobs,
    usage_of,
)

_JSON_FORMATS: Final = ("json_schema", "json_object")
_PARAMETERS: Final[dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "temperature": ("temperature", number),
    "top_p": ("top_p", number),
    "frequency_penalty": ("frequency_penalty", number),
    "presence_penalty": ("presence_penalty", number),
    "max_tokens": ("max_tokens", integer),
    "seed": ("seed", integer),
    "n": ("choice_count", integer),
    "stop": ("stop_sequences", strings),
    "reasoning_effort": ("reasoning_level", text_of),
    "service_tier": ("service_tier", text_of),
}


def response_format_type(body: Mapping[str, Any]) -> str | None:
    """`type` of `response_format`, when it is a mapping."""
    wanted = body.get("response_format")
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    return kind if isinstance(kind, str) else None


def tool_call_of(call: Any) -> ToolCall:
    """A tool call of a whole message: a function with JSON arguments, or a custom tool with free text."""
    function = get(call, "function")
    if function is not None:
        arguments = get(function, "arguments")
        return ToolCall(
            name=text_of(get(function, "name")) or "", arguments=arguments if isinstance(arguments, str) else None
        )
    custom = get(call, "custom")
    text = get(custom, "input")
    return ToolCall(
        name=text_of(get(custom, "name")) or "", arguments=text if isinstance(text, str) else None, json=False
    )


def choice_of(choice: Any) -> Choice:
    """One choice of a whole response."""
    # Nearly every choice is plain text: looked at with a few look-ups.
    try:
        found = choice.__dict__
        said, reason = found["message"].__dict__, found["finish_reason"]
        if (
            said["content"].__class__ is str
            and (reason.__class__ is str or reason is None)
            and said["tool_calls"] is said["function_call"] is said["refusal"] is said["audio"] is None
            and found["logprobs"] is None
            and not found["message"].__pydantic_extra__
        ):
            return make_choice(said["content"], None, reason)
    except (AttributeError, KeyError, TypeError):
        pass
    found = fields(choice)
    message = found.get("message")
    reason = found.get("finish_reason")
    said = fields(message)
    content = said.get("content")
    calls = said.get("tool_calls")
    legacy = said.get("function_call")
    tools: tuple[ToolCall, ...] = tuple(map(tool_call_of, listed(calls)))
    if legacy is not None and not tools:
        tools = (tool_call_of({"function": fields(legacy)}),)
    refusal = said.get("refusal")
    logprobs = found.get("logprobs")
    return make_choice(
        text=content if content is None or isinstance(content, str) else content_text(content),
        refusal=refusal if isinstance(refusal, str) and refusal else None,
        finish_reason=reason if isinstance(reason, str) else None,
        tool_calls=tools,
        has_audio=said.get("audio") is not None,
        has_other_output=bool(extra(message, "images")),
        mean_logprob=None if logprobs is None else mean_of(token_logprobs(logprobs)),
    )


class Chat:
    """`POST /chat/completions`."""

    expects_answer = True
    asks_usage = True

    def request(self, body: Mapping[str, Any], endpoint: Endpoint, *, stream: bool) -> Request:
        """Read the request body; odd values are left out."""
        found: dict[str, Any] = {}
        for name, value in body.items():
            parameter = _PARAMETERS.get(name)
            if parameter is not None:
                read = parameter[1](value)
                if read is not None:
                    found[parameter[0]] = read
        if "response_format" in body:
            wanted = response_format_type(body)
            if wanted in _JSON_FORMATS:
                found["output_type"], found["expects_json"] = "json", True
            elif wanted == "text":
                found["output_type"] = "text"
        if "max_completion_tokens" in body:
            limit = integer(body["max_completion_tokens"])
            if limit is not None:
                found["max_tokens"] = limit
        if found.get("choice_count") == 1:
            del found["choice_count"]
        return make_request(
            operation="chat",
            api_type="chat_completions",
            provider=endpoint.provider,
            model=text_of(body.get("model")) or "",
            server_address=endpoint.address,
            server_port=endpoint.port,
            stream=stream,
            **found,
        )

    def response(self, value: Any) -> Reading:
        """Read a whole response."""
        found = fields(value)
        given = found.get("choices")
        choices = tuple([choice_of(each) for each in given]) if isinstance(given, list) else ()
        usage: Usage | None = usage_of(found.get("usage"))
        reasons = tuple([choice.finish_reason or "error" for choice in choices])
        chars, stopped = 0, False
        for choice in choices:
            if choice.text:
                chars += len(choice.text)
            if choice.finish_reason:
                stopped = True
        answer = make_answer(
            text_of(found.get("id")),
            text_of(found.get("model")),
            reasons if stopped else (),
            text_of(found.get("service_tier")),
            text_of(found.get("system_fingerprint")),
            chars,
        )
        return make_reading(answer, usage, choices, None if stopped or chars else fault_of(value, "choices"))

    def stream(self) -> ChatStream:
        """A reader for one stream."""
        return ChatStream()

    def output_schema(self, body: Mapping[str, Any]) -> Mapping[str, object] | None:
        """The schema of `response_format: {type: json_schema}`."""
        if response_format_type(body) != "json_schema":
            return None
        schema = get(body["response_format"].get("json_schema"), "schema")
        return schema if isinstance(schema, Mapping) else None

    def tool_schema(self, body: Mapping[str, Any], name: str) -> Mapping[str, object] | None:
        """The schema of a function tool's parameters."""
        tools = body.get("tools")
        for tool in tools if isinstance(tools, (list, tuple)) else ():
            function = get(tool, "function")
            if get(function, "name") == name:
                schema = get(function, "parameters")
                return schema if isinstance(schema, Mapping) else None
        return None
