"""Observing a stream: the caller keeps its own type and every chunk, and the call ends exactly once, however it ends."""

from __future__ import annotations

import functools
import json
import types
import weakref
from collections.abc import AsyncIterator, Iterator
from time import perf_counter
from typing import Any, Final

from tierwise.instrument.dialects.base import StreamReader
from tierwise.instrument.observation import Observation, current

_ATTRIBUTE: Final = "_tierwise_watch"
_MAX_KEPT: Final = 8 << 20
_classes: dict[Any, Any] = {}


class Watch:
    """What is kept about one stream while it is read."""

    __slots__ = ("_kept", "_size", "observation", "parsed", "reader", "running", "sse")

    def __init__(self, observation: Observation, *, sse: bool) -> None:
        self.observation = observation
        self.reader: StreamReader = observation.dialect.stream()
        self.running = False
        """The client is inside its own reading of the response: a close seen now is its own, not the application's."""
        self.parsed = False
        """A Stream object reads the response; raw bytes need not be kept."""
        self.sse = sse
        self._kept: list[bytes] = []
        self._size = 0

    def keep(self, chunk: Any) -> None:
        """Keep raw bytes for the end, up to a bound."""
        if isinstance(chunk, bytes) and self._size < _MAX_KEPT:
            self._kept.append(chunk)
            self._size += len(chunk)

    def left(self) -> None:
        """The application stopped reading: the call is cancelled unless the answer was complete."""
        observation = self.observation
        if observation.ended or self.running:
            return
        try:
            self._raw_to_reader()
            complete = self.reader.finished
            reading = self.reader.reading()
        except Exception as fault:  # noqa: BLE001
            observation.hook.recorder.internal_error("stream", fault)
            return
        observation.stream_ended(reading, complete=complete)

    def exhausted(self) -> None:
        """The stream was read to its end."""
        observation = self.observation
        if observation.ended:
            return
        if not self.sse:
            self._answer_raw()
            return
        try:
            self._raw_to_reader()
            reading = self.reader.reading()
        except Exception as fault:  # noqa: BLE001
            observation.hook.recorder.internal_error("stream", fault)
            return
        observation.stream_ended(reading, complete=True)

    def broke(self, error: BaseException) -> None:
        """Reading raised."""
        try:
            reading = self.reader.reading()
        except Exception as fault:  # noqa: BLE001
            self.observation.hook.recorder.internal_error("stream", fault)
            return
        self.observation.stream_failed(reading, error)

    def _answer_raw(self) -> None:
        body = b"".join(self._kept)
        try:
            value: Any = json.loads(body)
        except (ValueError, RecursionError):
            value = body
        self.observation.answered(value)

    def _raw_to_reader(self) -> None:
        """Read the events of a stream that the application took as raw bytes."""
        if self.parsed or not self._kept:
            return
        for block in b"".join(self._kept).replace(b"\r\n", b"\n").split(b"\n\n"):
            data = b"\n".join(line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:"))
            if not data or data.startswith(b"[DONE]"):
                continue
            try:
                self.reader.see(json.loads(data))
            except (ValueError, RecursionError):
                continue
        self._kept = []


def watch_response(response: Any, observation: Observation, *, sse: bool) -> Watch:
    """Watch an HTTP response whose body the application reads later: its bytes, its end, its closing.

    The response's class is swapped for a cached subclass, so bound methods and garbage collection stay as they were.
    """
    known: Watch | None = response.__dict__.get(_ATTRIBUTE)
    if known is not None:
        return known
    watch = Watch(observation, sse=sse)
    response.__dict__[_ATTRIBUTE] = watch
    response.__class__ = _watched_class(type(response))
    weakref.finalize(response, watch.left).atexit = False
    return watch


def _watched_class(original: type) -> type:
    found: type | None = _classes.get(original)
    if found is not None:
        return found

    def close(self: Any) -> None:
        try:
            original.close(self)  # type: ignore[attr-defined]
        finally:
            self.__dict__[_ATTRIBUTE].left()

    async def aclose(self: Any) -> None:
        try:
            await original.aclose(self)  # type: ignore[attr-defined]
        finally:
            self.__dict__[_ATTRIBUTE].left()

    def iter_bytes(self: Any, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        return _tee(original.iter_bytes(self, *args, **kwargs), self.__dict__[_ATTRIBUTE])  # type: ignore[attr-defined]

    def aiter_bytes(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[bytes]:
        return _atee(original.aiter_bytes(self, *args, **kwargs), self.__dict__[_ATTRIBUTE])  # type: ignore[attr-defined]

    namespace: dict[str, Any] = {"__module__": original.__module__, "__qualname__": original.__qualname__}
    for override in (close, aclose, iter_bytes, aiter_bytes):
        bare = getattr(original, override.__name__, None)
        if bare is not None:
            namespace[override.__name__] = functools.wraps(bare)(override)
    _classes[original] = made = type(original.__name__, (original,), namespace)
    return made


def _tee(inner: Iterator[bytes], watch: Watch) -> Iterator[bytes]:
    """Raw bytes to the application, a bounded copy for the end."""
    if watch.parsed:
        yield from inner
        return
    watch.running = True
    try:
        for chunk in inner:
            if not watch.parsed:
                _note_time(watch.observation)
                watch.keep(chunk)
                watch.running = False
            yield chunk
            watch.running = True
    except GeneratorExit:
        watch.running = False
        raise
    except BaseException as error:
        watch.broke(error)
        raise
    watch.running = False
    if not watch.parsed:
        watch.exhausted()


async def _atee(inner: AsyncIterator[bytes], watch: Watch) -> AsyncIterator[bytes]:
    if watch.parsed:
        async for chunk in inner:
            yield chunk
        return
    watch.running = True
    try:
        async for chunk in inner:
            if not watch.parsed:
                _note_time(watch.observation)
                watch.keep(chunk)
                watch.running = False
            yield chunk
            watch.running = True
    except GeneratorExit:
        watch.running = False
        raise
    except BaseException as error:
        watch.broke(error)
        raise
    watch.running = False
    if not watch.parsed:
        watch.exhausted()


def _note_time(observation: Observation) -> None:
    if observation.stream:
        observation.last_at = perf_counter()
        if not observation.first_at:
            observation.first_at = observation.last_at
        observation.chunks += 1


def observe(inner: Iterator[Any], watch: Watch) -> Iterator[Any]:
    """Hand on every chunk of a stream; the extra usage chunk is kept back when it was our request that brought it."""
    observation = watch.observation
    see, hide = watch.reader.see, observation.hide_usage
    watch.running = True
    try:
        for chunk in inner:
            observation.last_at = perf_counter()
            if not observation.chunks:
                observation.first_at = observation.last_at
            observation.chunks += 1
            try:
                only_usage = see(chunk)
            except Exception as fault:  # noqa: BLE001
                only_usage = False
                observation.hook.recorder.internal_error("chunk", fault)
            if only_usage and hide:
                continue
            watch.running = False
            yield chunk
            watch.running = True
    except GeneratorExit:
        watch.running = False
        watch.left()
        raise
    except BaseException as error:
        watch.running = False
        watch.broke(error)
        raise
    watch.running = False
    watch.exhausted()


async def observe_async(inner: Any, watch: Watch) -> AsyncIterator[Any]:
    """The same for an asynchronous stream."""
    observation = watch.observation
    see, hide = watch.reader.see, observation.hide_usage
    watch.running = True
    try:
        async for chunk in inner:
            observation.last_at = perf_counter()
            if not observation.chunks:
                observation.first_at = observation.last_at
            observation.chunks += 1
            try:
                only_usage = see(chunk)
            except Exception as fault:  # noqa: BLE001
                only_usage = False
                observation.hook.recorder.internal_error("chunk", fault)
            if only_usage and hide:
                continue
            watch.running = False
            yield chunk
            watch.running = True
    except GeneratorExit:
        watch.running = False
        watch.left()
        await inner.aclose()  # as the interpreter would have done with the bare stream
        raise
    except BaseException as error:
        watch.running = False
        watch.broke(error)
        raise
    watch.running = False
    watch.exhausted()


def attach(stream: Any, observation: Observation) -> None:
    """Observe a stream object that is about to be handed to the application. Never raises."""
    try:
        watch = watch_response(stream.response, observation, sse=True)
        watch.parsed = True
        inner = stream._iterator
        stream._iterator = observe_async(inner, watch) if hasattr(inner, "__anext__") else observe(inner, watch)
        observation.stream_attached = True
    except Exception as fault:  # noqa: BLE001
        observation.hook.recorder.internal_error("attach", fault)


def observed_class(stream_cls: Any) -> Any:
    """A cached subclass of a stream class (`Stream[Chunk]`) whose instances are observed; same name, same type to a reader."""
    found = _classes.get(stream_cls)
    if found is None:
        found = _classes[stream_cls] = _make_class(stream_cls)
    return found


def _make_class(stream_cls: Any) -> Any:
    plain = getattr(stream_cls, "__origin__", stream_cls)

    def initialise(self: Any, *args: Any, **kwargs: Any) -> None:
        plain.__init__(self, *args, **kwargs)
        observation = current.get()
        if observation is None:
            watch = self.response.__dict__.get(_ATTRIBUTE)
            observation = None if watch is None or watch.parsed else watch.observation
        if observation is not None and not observation.stream_attached:
            attach(self, observation)

    def body(namespace: dict[str, Any]) -> None:
        namespace["__init__"] = initialise
        namespace["__module__"] = plain.__module__
        namespace["__qualname__"] = plain.__qualname__
        namespace["__doc__"] = plain.__doc__

    return types.new_class(plain.__name__, (stream_cls,), exec_body=body)
