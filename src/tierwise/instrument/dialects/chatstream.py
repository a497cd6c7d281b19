"""A stream of chat completion chunks, read chunk by chunk: what each choice has said, and what stands around them."""

from __future__ import annotations

from typing import Any, Final

from tierwise.core.call import make_answer
from tierwise.core.outcome import Choice, ToolCall, make_choice
from tierwise.instrument.dialects.base import Reading, make_reading
from tierwise.instrument.dialects.values import (
    content_text,
    error_type_of,
    extra,
    fields,
    get,
    listed,
    mean_of,
    text_of,
    token_logprobs,
    usage_of,
)

_LAST: Final = 1 << 62


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


def _by_index(index: Any) -> tuple[int, str]:
    """Numbers by size, whatever else a server sends behind them."""
    return (index, "") if isinstance(index, int) else (_LAST, str(index))


class ChatStream:
    """Reads a stream of chat completion chunks (also used for legacy completions)."""

    __slots__ = (
        "_choice",
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
        self._choices: dict[Any, _ChoiceState] = {}
        self._choice = _ChoiceState()
        """That of index 0, which nearly every stream is."""
        self._texts = self._choice.texts
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
            index = one.get("index") or 0
            state = self._choices.get(index)
            if state is None:
                state = self._choices[index] = _ChoiceState() if index else self._choice
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
        return all(state.finish_reason for state in self._states())

    def _states(self) -> list[_ChoiceState]:
        """The choices that were there, in the order of their indices; one that says nothing where there was none."""
        choices = self._choices
        if 0 not in choices and (self._texts or not choices):
            choices[0] = self._choice
        return [choices[index] for index in sorted(choices, key=_by_index)]

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
        choices = tuple(state.choice() for state in self._states())
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
