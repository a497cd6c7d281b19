"""Observing a stream: the caller keeps its own type and every chunk, and the call ends exactly once, however it ends."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from time import perf_counter
from typing import Any, Final

from tierwise.instrument.dialects.base import StreamReader
from tierwise.instrument.entering import current
from tierwise.instrument.guard import WithoutUsage, is_usage_alone, quietly, tell, when_gone
from tierwise.instrument.observation import Observation
from tierwise.instrument.rawbody import MAX_BODY, RawBody, RawEvents, decoder

_ATTRIBUTE: Final = "_tierwise_watch"
_classes: dict[Any, Any] = {}


class Watch:
    """What is kept about one stream, or one body that the application reads as bytes, while it is read."""

    __slots__ = ("observation", "parsed", "raw", "reader", "running")

    def __init__(self, observation: Observation, *, sse: bool) -> None:
        self.observation = observation
        self.reader: StreamReader = observation.dialect.stream()
        self.running = False
        """The client is inside its own reading of the response: a close seen now is its own, not the application's."""
        self.parsed = False
        """A Stream object reads the response; raw bytes need not be looked at."""
        self.raw: RawEvents | RawBody = RawEvents(self._see) if sse else RawBody()

    def _see(self, event: Any) -> None:
        try:
            self.reader.see(event)
        except Exception as fault:  # noqa: BLE001
            tell(self.observation.hook.recorder, "chunk", fault)

    def keep(self, chunk: Any) -> None:
        """Look at bytes of the body on their way to the application."""
        try:
            self.raw.feed(chunk)
        except Exception as fault:  # noqa: BLE001
            tell(self.observation.hook.recorder, "raw", fault)

    def left(self) -> None:
        """The application stopped reading: the call is cancelled unless the answer was complete."""
        observation = self.observation
        if observation.ended or self.running:
            return
        if not self.parsed and isinstance(self.raw, RawBody) and self.raw.whole:
            observation.answered(self.raw.value())
        else:
            observation.stream_ended(self.reader, exhausted=False)

    def close(self) -> None:
        """The application closed what is watched. Never raises."""
        quietly(self.observation.hook.recorder, "left", self.left)

    def exhausted(self) -> None:
        """The body was read to its end."""
        observation = self.observation
        if observation.ended:
            return
        if not self.parsed and isinstance(self.raw, RawEvents):
            self.raw.end()
        if self.parsed or isinstance(self.raw, RawEvents):
            observation.stream_ended(self.reader, exhausted=True)
        elif self.raw.too_large:
            observation.answered_unread(ValueError(f"a body of more than {MAX_BODY >> 20} MiB was not read"))
        else:
            observation.answered(self.raw.value())

    def unreadable(self, encoding: str) -> None:
        """The body was read to its end as bytes in an encoding that is not known here."""
        self.observation.answered_unread(ValueError(f"a body with content-encoding {encoding} was not read"))

    def broke(self, error: BaseException) -> None:
        """Reading raised."""
        self.observation.stream_failed(self.reader, error)


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
    when_gone(response, observation.hook.recorder, "left", watch.left)
    return watch


def _watched_class(original: type) -> type:
    found: type | None = _classes.get(original)
    if found is not None:
        return found

    def close(self: Any) -> None:
        try:
            original.close(self)  # type: ignore[attr-defined]
        finally:
            self.__dict__[_ATTRIBUTE].close()

    async def aclose(self: Any) -> None:
        try:
            await original.aclose(self)  # type: ignore[attr-defined]
        finally:
            self.__dict__[_ATTRIBUTE].close()

    def iter_bytes(self: Any, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        inner = original.iter_bytes(self, *args, **kwargs)  # type: ignore[attr-defined]
        return _looked_at(_tee, inner, self.__dict__[_ATTRIBUTE])  # type: ignore[no-any-return]

    def aiter_bytes(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[bytes]:
        inner = original.aiter_bytes(self, *args, **kwargs)  # type: ignore[attr-defined]
        return _looked_at(_atee, inner, self.__dict__[_ATTRIBUTE])  # type: ignore[no-any-return]

    def iter_raw(self: Any, *args: Any, **kwargs: Any) -> Iterator[bytes]:
        inner = original.iter_raw(self, *args, **kwargs)  # type: ignore[attr-defined]
        return _looked_at(_tee, inner, self.__dict__[_ATTRIBUTE], self.headers)  # type: ignore[no-any-return]

    def aiter_raw(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[bytes]:
        inner = original.aiter_raw(self, *args, **kwargs)  # type: ignore[attr-defined]
        return _looked_at(_atee, inner, self.__dict__[_ATTRIBUTE], self.headers)  # type: ignore[no-any-return]

    namespace: dict[str, Any] = {"__module__": original.__module__, "__qualname__": original.__qualname__}
    for override in (close, aclose, iter_bytes, aiter_bytes, iter_raw, aiter_raw):
        bare = getattr(original, override.__name__, None)
        if bare is not None:
            namespace[override.__name__] = functools.wraps(bare)(override)
    _classes[original] = made = type(original.__name__, (original,), namespace)
    return made


def _looked_at(tee: Any, inner: Any, watch: Watch, encoded: Mapping[str, str] | None = None) -> Any:
    """The bytes of a body by way of `tee`, or as they are. `encoded`: the headers of a body that is not decoded yet.

    Never raises.
    """
    try:
        return tee(inner, _Looker(watch, encoded))
    except Exception as fault:  # noqa: BLE001
        tell(watch.observation.hook.recorder, "raw", fault)
        return inner


def _tee(inner: Iterator[bytes], looker: _Looker) -> Iterator[bytes]:
    """Bytes to the application, looked at on their way."""
    watch, recorder = looker.watch, looker.watch.observation.hook.recorder
    if watch.parsed or watch.running:  # read by a Stream, or by the client's own decoding, which is watched itself
        yield from inner
        return
    watch.running = True
    try:
        for chunk in inner:
            if not watch.parsed:
                quietly(recorder, "raw", looker.see, chunk)
                watch.running = False
            yield chunk
            watch.running = True
    except GeneratorExit:
        watch.running = False
        raise
    except BaseException as error:
        watch.running = False
        quietly(recorder, "broke", watch.broke, error)
        raise
    watch.running = False
    quietly(recorder, "exhausted", looker.end)


async def _atee(inner: AsyncIterator[bytes], looker: _Looker) -> AsyncIterator[bytes]:
    watch, recorder = looker.watch, looker.watch.observation.hook.recorder
    if watch.parsed or watch.running:
        async for chunk in inner:
            yield chunk
        return
    watch.running = True
    try:
        async for chunk in inner:
            if not watch.parsed:
                quietly(recorder, "raw", looker.see, chunk)
                watch.running = False
            yield chunk
            watch.running = True
    except GeneratorExit:
        watch.running = False
        raise
    except BaseException as error:
        watch.running = False
        quietly(recorder, "broke", watch.broke, error)
        raise
    watch.running = False
    quietly(recorder, "exhausted", looker.end)


class _Looker:
    """Takes the bytes of one reading to the watch, decoded."""

    __slots__ = ("_decode", "_encoding", "watch")

    def __init__(self, watch: Watch, encoded: Mapping[str, str] | None) -> None:
        self.watch = watch
        self._encoding = "" if encoded is None else encoded.get("content-encoding", "").strip().lower()
        self._decode = decoder(self._encoding)

    def see(self, chunk: bytes) -> None:
        observation = self.watch.observation
        if observation.stream:
            observation.last_at = perf_counter()
            if not observation.first_at:
                observation.first_at = observation.last_at
            observation.chunks += 1
        if self._decode is not None:
            try:
                chunk = self._decode(chunk)
            except Exception:  # noqa: BLE001 - not what its header says; the application may know better
                self._decode = None
                return
            self.watch.keep(chunk)

    def end(self) -> None:
        if self.watch.parsed:
            return
        if self._decode is None:
            self.watch.unreadable(self._encoding)
        else:
            self.watch.exhausted()


def observe(inner: Iterator[Any], watch: Watch) -> Iterator[Any]:
    """Hand on every chunk of a stream; the extra usage chunk is kept back when it was our request that brought it."""
    observation = watch.observation
    recorder, see, hide = observation.hook.recorder, watch.reader.see, observation.hide_usage
    watch.running = True
    try:
        for chunk in inner:
            observation.last_at = now = perf_counter()
            observation.chunks = number = observation.chunks + 1
            if number == 1:
                observation.first_at = now
            try:
                only_usage = see(chunk)
            except Exception as fault:  # noqa: BLE001
                only_usage = is_usage_alone(chunk)
                tell(recorder, "chunk", fault)
            if hide and only_usage:
                continue
            watch.running = False
            yield chunk
            watch.running = True
    except GeneratorExit:
        watch.running = False
        quietly(recorder, "left", watch.left)
        raise
    except BaseException as error:
        watch.running = False
        quietly(recorder, "broke", watch.broke, error)
        raise
    watch.running = False
    quietly(recorder, "exhausted", watch.exhausted)


async def observe_async(inner: Any, watch: Watch) -> AsyncIterator[Any]:
    """The same for an asynchronous stream."""
    observation = watch.observation
    recorder, see, hide = observation.hook.recorder, watch.reader.see, observation.hide_usage
    watch.running = True
    try:
        async for chunk in inner:
            observation.last_at = now = perf_counter()
            observation.chunks = number = observation.chunks + 1
            if number == 1:
                observation.first_at = now
            try:
                only_usage = see(chunk)
            except Exception as fault:  # noqa: BLE001
                only_usage = is_usage_alone(chunk)
                tell(recorder, "chunk", fault)
            if hide and only_usage:
                continue
            watch.running = False
            yield chunk
            watch.running = True
    except GeneratorExit:
        watch.running = False
        quietly(recorder, "left", watch.left)
        await inner.aclose()  # as the interpreter would have done with the bare stream
        raise
    except BaseException as error:
        watch.running = False
        quietly(recorder, "broke", watch.broke, error)
        raise
    watch.running = False
    quietly(recorder, "exhausted", watch.exhausted)


def attach(stream: Any, observation: Observation) -> None:
    """Observe a stream object that is about to be handed to the application, by its bytes where it is of another shape."""
    try:
        inner = stream._iterator
        if isinstance(inner, WithoutUsage):
            return  # it failed before
        watch = watch_response(stream.response, observation, sse=True)
        watch.parsed = True
        stream._iterator = observe_async(inner, watch) if hasattr(inner, "__anext__") else observe(inner, watch)
        observation.stream_attached = True
    except Exception as fault:  # noqa: BLE001
        _hide_usage(stream, observation)
        _watch_bytes(stream, observation)
        tell(observation.hook.recorder, "attach", fault)


def not_taken_in(observation: Observation, result: Any, fault: Exception) -> None:
    """What a request returned could not be observed: the call ends here, as far as is known. Never raises."""
    if observation.stream and not observation.stream_attached:
        _hide_usage(result, observation)
    quietly(observation.hook.recorder, "unread", observation.answered_unread, fault)


def _hide_usage(stream: Any, observation: Observation) -> None:
    """Keep back the chunk that only our request brings from a stream that is not observed. Never raises."""
    if observation.hide_usage:
        with suppress(Exception):
            stream._iterator = WithoutUsage(stream._iterator)


def _watch_bytes(stream: Any, observation: Observation) -> None:
    """For a stream of another shape: read along with its bytes."""
    with suppress(Exception):
        watch_response(stream.response, observation, sse=True).parsed = False
        observation.stream_attached = True


@functools.lru_cache(maxsize=256)
def can_hide(stream_cls: Any) -> bool:
    """Whether a chunk can be kept back from the readers of a stream class: they read through its `_iterator`."""
    plain = getattr(stream_cls, "__origin__", stream_cls)
    read = getattr(plain, "__iter__", None) or getattr(plain, "__aiter__", None)
    code = getattr(inspect.unwrap(read), "__code__", None) if read is not None else None
    return code is not None and "_iterator" in code.co_names


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
        try:
            if observation is None:
                watch = self.response.__dict__.get(_ATTRIBUTE)
                observation = None if watch is None or watch.parsed else watch.observation
            if observation is not None and not observation.stream_attached:
                attach(self, observation)
        except Exception as fault:  # noqa: BLE001
            if observation is not None:
                not_taken_in(observation, self, fault)

    def body(namespace: dict[str, Any]) -> None:
        namespace["__init__"] = initialise
        namespace["__module__"] = plain.__module__
        namespace["__qualname__"] = plain.__qualname__
        namespace["__doc__"] = plain.__doc__

    return types.new_class(plain.__name__, (stream_cls,), exec_body=body)
