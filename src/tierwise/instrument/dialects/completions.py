"""Legacy text completions: a prompt in, `choices[].text` out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tierwise.core.call import Request
from tierwise.core.outcome import Choice
from tierwise.instrument.dialects.base import Endpoint, Reading
from tierwise.instrument.dialects.chat import Chat
from tierwise.instrument.dialects.values import fields, mean_of, token_logprobs


class Completions(Chat):
    """`POST /completions`. Everything but the operation's name and the place of the text is as in chat."""

    def request(self, body: Mapping[str, Any], endpoint: Endpoint, *, stream: bool) -> Request:
        """Read the request body; odd values are left out."""
        return replace(super().request(body, endpoint, stream=stream), operation="text_completion", api_type=None)

    def response(self, value: Any) -> Reading:
        """Read a whole response."""
        reading = super().response(value)
        listed = fields(value).get("choices")
        if not isinstance(listed, list):
            return reading
        choices = tuple(_choice_of(choice) for choice in listed)
        chars = sum(len(choice.text) for choice in choices if choice.text)
        return replace(reading, choices=choices, answer=replace(reading.answer, output_chars=chars))


def _choice_of(choice: Any) -> Choice:
    found = fields(choice)
    text, reason, logprobs = found.get("text"), found.get("finish_reason"), found.get("logprobs")
    return Choice(
        text=text if isinstance(text, str) else None,
        finish_reason=reason if isinstance(reason, str) and reason else None,
        mean_logprob=None if logprobs is None else mean_of(token_logprobs(logprobs)),
    )
