"""Clients of no particular make, with the shape of OpenAI's: plain objects, dicts, generators, made here by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace
from typing import Any

from tierwise.core.call import Call
from tierwise.instrument import duck
from tierwise.instrument.checks import checks_for
from tierwise.instrument.hook import Wiring
from tierwise.instrument.parsing import compile_schema, is_json, parse_json
from tierwise.testing import FixedPrices, MemoryRecorder, chat_body, chat_chunks


def namespace(value: Any) -> Any:
    """Decoded JSON as objects with attributes."""
    if isinstance(value, dict):
        return SimpleNamespace(**{name: namespace(inner) for name, inner in value.items()})
    return [namespace(inner) for inner in value] if isinstance(value, list) else value


def observe(target: Any, *, task: str | None = None, stream_usage: bool | None = None) -> tuple[Any, MemoryRecorder]:
    """Instrument a target so that its calls end in a `MemoryRecorder`."""
    recorder = MemoryRecorder()
    wiring = Wiring(
        recorder=recorder,
        prices=FixedPrices(),
        parse_json=parse_json,
        is_json=is_json,
        compile_schema=compile_schema,
        policy_for=lambda name: None,
        checks_for=checks_for,
        candidate_params={},
        stream_usage=stream_usage,
    )
    return duck.instrument(target, wiring, task), recorder


def only(recorder: MemoryRecorder) -> Call:
    """The one call that was recorded, its span ended once, and no fault of tierwise's."""
    assert recorder.errors == []
    (call,) = recorder.calls
    assert [span.ended for span in recorder.spans] == [1]
    assert recorder.active == 0
    return call


class Completions:
    """`chat.completions`: answers, streams or raises what it was made with; keeps the arguments it got."""

    def __init__(self, *, parts: tuple[str, ...] = ("Hel", "lo"), error: BaseException | None = None) -> None:
        self.parts, self.error = parts, error
        self.seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.body = namespace(chat_body("".join(parts)))
        self.chunks = [namespace(chunk) for chunk in chat_chunks(parts)]
        self.read = 0
        self.closed = False

    def create(self, messages: Any, model: str | None = None, *, stream: bool = False, **others: Any) -> Any:
        """A completion."""
        self.seen.append(((), {"messages": messages, "model": model, "stream": stream, **others}))
        if stream:
            return self._chunks()
        if self.error is not None:
            raise self.error
        return self.body

    def _chunks(self) -> Iterator[Any]:
        try:
            for chunk in self.chunks:
                self.read += 1
                yield chunk
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True


class AsyncCompletions(Completions):
    """The same, asynchronous."""

    async def create(self, messages: Any, model: str | None = None, *, stream: bool = False, **others: Any) -> Any:  # type: ignore[override]
        """A completion."""
        self.seen.append(((), {"messages": messages, "model": model, "stream": stream, **others}))
        await asyncio.sleep(0)
        if stream:
            return self._achunks()
        if self.error is not None:
            raise self.error
        return self.body

    async def _achunks(self) -> AsyncIterator[Any]:
        try:
            for chunk in self.chunks:
                self.read += 1
                await asyncio.sleep(0)
                yield chunk
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True


class Chat:
    """`client.chat`."""

    def __init__(self, completions: Any) -> None:
        self.completions = completions


class Duck:
    """A client whose resources are there for good."""

    def __init__(self, completions: Any, base_url: str | None = None) -> None:
        self.chat = Chat(completions)
        if base_url is not None:
            self.base_url = base_url


class FreshDuck:
    """A client that makes its resources anew on each access."""

    def __init__(self, completions: Any) -> None:
        self._completions = completions

    @property
    def chat(self) -> FreshChat:
        """The resource, a new one each time."""
        return FreshChat(self._completions)


class FreshChat:
    """`client.chat` of `FreshDuck`."""

    def __init__(self, completions: Any) -> None:
        self._completions = completions

    @property
    def completions(self) -> FreshCompletions:
        """The resource, a new one each time."""
        return FreshCompletions(self._completions)


class FreshCompletions:
    """`client.chat.completions` of `FreshDuck`: `create` is a property as well."""

    def __init__(self, completions: Any) -> None:
        self._completions = completions

    @property
    def create(self) -> Any:
        """The method of another object."""
        return self._completions.create
