"""Chat completions: requests, responses and chunk streams, with the oddities of compatible servers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tierwise.core.call import Request, Usage, make_answer, make_request
from tierwise.core.outcome import Choice, ToolCall, make_choice
from tierwise.instrument.dialects.base import Endpoint, Reading, make_reading
from tierwise.instrument.dialects.values import (
    content_text,
    error_type_of,
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


class _ChoiceState:
    """What one choice of a stream has said so far."""

    __slots__ = ("audio", "finish_reason", "logprobs", "other", "refusal", "texts", "tools")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.refusal: list[str] = []
        self.finish_reason: str | None = None
        self.logprobs: list[float] = []
        self.tools: dict[Any, list[Any]] = {}
        self.audio = False
        self.other = False

    def odd(self, delta: Any, found: dict[str, Any]) -> None:
        """The rarer parts of a delta."""
        refusal = found.get("refusal")
        if isinstance(refusal, str):
            self.refusal.append(refusal)
        content = found.get("content")
        if content is not None and not isinstance(content, str):
            text = content_text(content)
            if text:
                self.texts.append(text)
        calls = found.get("tool_calls")
        for call in listed(calls):
            self._tool(call)
        legacy = found.get("function_call")
        if legacy is not None:
            self._tool({"index": 0, "function": legacy})
        if found.get("audio") is not None or extra(delta, "audio") is not None:
            self.audio = True
        if extra(delta, "images"):
            self.other = True

    def _tool(self, call: Any) -> None:
        index, call_id = get(call, "index"), get(call, "id")
        if index is None:  # Mistral and others leave the index out; a new id is a new call
            index = call_id if call_id and call_id not in self.tools else next(reversed(self.tools), 0)
        state = self.tools.setdefault(index, ["", [], True])
        function = get(call, "function")
        if function is None and get(call, "custom") is not None:
            function, state[2] = get(call, "custom"), False
        name, arguments = get(function, "name"), get(function, "arguments" if state[2] else "input")
        if isinstance(name, str) and name:
            state[0] = name
        if isinstance(arguments, str):
            state[1].append(arguments)
        elif isinstance(arguments, dict):
            state[2] = False

    def choice(self) -> Choice:
        texts, refusal = self.texts, self.refusal
        return make_choice(
            text="".join(texts) if texts else None,
            refusal=("".join(refusal) or None) if refusal else None,
            finish_reason=self.finish_reason,
            tool_calls=tuple(
                ToolCall(name=name, arguments="".join(parts), json=json) for name, parts, json in self.tools.values()
            ),
            has_audio=self.audio,
            has_other_output=self.other,
            mean_logprob=mean_of(self.logprobs) if self.logprobs else None,
        )


class ChatStream:
    """Reads a stream of chat completion chunks (also used for legacy completions)."""

    __slots__ = (
        "_choices",
        "_fingerprint",
        "_first",
        "_id",
        "_model",
        "_plain_index",
        "_texts",
        "_tier",
        "_usage",
        "error_type",
    )

    def __init__(self) -> None:
        self._choices: dict[Any, _ChoiceState] = {0: _ChoiceState()}
        self._texts = self._choices[0].texts
        self._first = True
        self._plain_index: int | None = None
        """0 once the frame has been read: before, every chunk is looked at as a whole."""
        self._id: str | None = None
        self._model: str | None = None
        self._tier: str | None = None
        self._fingerprint: str | None = None
        self._usage: Any = None
        self.error_type: str | None = None

    def see(self, chunk: Any) -> bool:
        """Take note of a chunk; true when it holds usage and no choices."""
        # Nearly every chunk is one piece of text in one choice: looked at with as few look-ups as will do.
        try:
            found = chunk.__dict__
            (only,) = found["choices"]
            one = only.__dict__
            delta = one["delta"]
            if (
                found["usage"] is one["finish_reason"] is one["logprobs"] is None
                and (len(given := delta.__pydantic_fields_set__) == 1 or (len(given) == 2 and "role" in given))
                and one["index"] == self._plain_index
                and not delta.__pydantic_extra__
            ):
                content = delta.__dict__["content"]
                if content.__class__ is str:
                    self._texts.append(content)
                    return False
        except (AttributeError, KeyError, TypeError, ValueError):
            pass
        return self._see(chunk)

    def _see(self, chunk: Any) -> bool:
        found = fields(chunk)
        choices = found.get("choices")
        usage = found.get("usage")
        if self._first or usage is not None or not choices:
            self._frame(chunk, found, usage)
        if not choices:
            return usage is not None
        for choice in choices:
            one = fields(choice)
            delta = one.get("delta")
            if delta is None:
                delta = extra(choice, "delta")  # a client that took the chunk for a whole response
            index = one.get("index")
            state = self._choices.get(0 if index is None else index)
            if state is None:
                state = self._choices[index] = _ChoiceState()
            said = fields(delta)
            content = said.get("content")
            if content.__class__ is str:
                if content:
                    state.texts.append(content)
            elif delta is None:
                text = one.get("text")
                if isinstance(text, str):
                    state.texts.append(text)
            if (
                said.get("tool_calls") is not None
                or said.get("refusal") is not None
                or said.get("function_call") is not None
                or said.get("audio") is not None
                or (content is not None and content.__class__ is not str)
                or getattr(delta, "__pydantic_extra__", None)
            ):
                state.odd(delta, said)
            logprobs = one.get("logprobs")
            if logprobs is not None:
                state.logprobs += token_logprobs(logprobs)
            reason = one.get("finish_reason")
            if reason is not None and isinstance(reason, str) and reason:
                state.finish_reason = reason
                self._frame(chunk, found, extra(choice, "usage") if usage is None else usage)
        return False

    @property
    def finished(self) -> bool:
        """Every choice has given its finish reason."""
        return all(state.finish_reason for state in self._choices.values())

    def _frame(self, chunk: Any, found: dict[str, Any], usage: Any) -> None:
        """What stands around the choices: identity, tier, usage. Early chunks may leave it empty."""
        if not self._id:
            self._id = text_of(found.get("id"))
        model = text_of(found.get("model"))
        if model:
            self._model = model
        self._first = not (self._id and self._model)
        self._plain_index = None if self._first else 0
        self._tier = text_of(found.get("service_tier")) or self._tier
        self._fingerprint = text_of(found.get("system_fingerprint")) or self._fingerprint
        if usage is not None:
            self._usage = usage
        else:
            groq = get(chunk, "x_groq")
            if groq is not None and get(groq, "usage") is not None:
                self._usage = get(groq, "usage")
        error = chunk if found.get("object") == "error" else get(chunk, "error")
        if error:
            self.error_type = error_type_of(error)

    def reading(self) -> Reading:
        """What the stream has held so far; the last usage counts, it may be cumulative."""
        states = [self._choices[index] for index in sorted(self._choices, key=str)]
        choices = tuple(state.choice() for state in states)
        reasons = tuple(choice.finish_reason or "error" for choice in choices)
        return make_reading(
            answer=make_answer(
                id=self._id,
                model=self._model,
                finish_reasons=reasons if any(choice.finish_reason for choice in choices) else (),
                service_tier=self._tier,
                system_fingerprint=self._fingerprint,
                output_chars=sum(len(choice.text) for choice in choices if choice.text),
            ),
            usage=usage_of(self._usage),
            choices=choices,
            error_type=self.error_type,
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
