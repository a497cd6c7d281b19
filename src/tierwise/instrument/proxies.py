"""Stand-ins for streams and awaitables of any make: the object the application got, observed while it is used.

A stand-in is a transparent wrapt proxy of a class made for the wrapped object's type, so that it has exactly the
protocols which that type has: `isinstance`, attributes and `async for` see what they would have seen.
"""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections.abc import Callable, Coroutine, Iterator
from time import perf_counter
from typing import Any, Final

import wrapt

from tierwise.instrument.litellm import StreamOfLitellm, readable, received_chunks
from tierwise.instrument.observation import Observation, current
from tierwise.instrument.streams import Watch

TransparentProxy: Any = getattr(wrapt, "BaseObjectProxy", wrapt.ObjectProxy)
"""wrapt's proxy without an `__iter__` of its own, where this wrapt has one."""
_MISSING: Final = object()
_classes: weakref.WeakKeyDictionary[type, Any] = weakref.WeakKeyDictionary()
_awaitable_classes: weakref.WeakKeyDictionary[type, Any] = weakref.WeakKeyDictionary()

Entered = tuple[Any, Any] | None


def enter(observation: Observation) -> Entered:
    """Make a call current while its code runs; never raises."""
    try:
        return observation.enter()
    except Exception as fault:  # noqa: BLE001 - a fault of ours must not reach the call
        _not_current(observation)
        observation.hook.recorder.internal_error("enter", fault)
        return None


def leave(observation: Observation, entered: Entered) -> None:
    """Undo `enter`; never raises."""
    if entered is not None:
        try:
            observation.leave(entered)
        except Exception as fault:  # noqa: BLE001
            _not_current(observation)
            observation.hook.recorder.internal_error("leave", fault)


def _not_current(observation: Observation) -> None:
    if current.get() is observation:
        current.set(None)


class _Alive:
    """Lives as long as anything that can still read the stream."""

    __slots__ = ("__weakref__",)


def observed_stream(stream: Any, observation: Observation) -> Any:
    """A stand-in for a stream that has just been made; the call ends with it, however it ends."""
    watch = Watch(observation, sse=True)
    watch.parsed = True
    received = received_chunks(stream)
    if received is not None:
        watch.reader = StreamOfLitellm(watch.reader, received)
    alive = _Alive()
    weakref.finalize(alive, watch.left).atexit = False
    return _stand_in(stream, watch, alive)


def _stand_in(stream: Any, watch: Watch, alive: _Alive) -> Any:
    kind = type(stream)
    made = _classes.get(kind)
    if made is None:
        made = _classes[kind] = _class_for(kind, _STREAM_METHODS)
    proxy = made(stream)
    proxy._self_watch, proxy._self_alive = watch, alive
    return proxy


def _class_for(kind: type, methods: dict[str, Any]) -> Any:
    """A proxy class with those of the methods that a type has, and without wrapt's own where it has none."""
    namespace: dict[str, Any] = {name: method for name, method in methods.items() if hasattr(kind, name)}
    for name in _PROTOCOLS:
        if name not in namespace and hasattr(TransparentProxy, name) and not hasattr(kind, name):
            namespace[name] = _Absent()
    return type(kind.__name__, (TransparentProxy,), namespace)


class _Absent:
    """Hides a method that the proxy's base class has and the wrapped object has not."""

    def __get__(self, instance: object, owner: type) -> Any:
        raise AttributeError("the wrapped object has no such method")


def _saw(watch: Watch, chunk: Any) -> bool:
    """Take note of a chunk; true when it is to be kept back because only our request brought it. Never raises."""
    observation = watch.observation
    try:
        now = perf_counter()
        if not observation.ended:
            observation.last_at = now
            observation.first_at = observation.first_at or now
            observation.chunks += 1
        return watch.reader.see(readable(chunk)) and observation.hide_usage
    except Exception as fault:  # noqa: BLE001
        observation.hook.recorder.internal_error("chunk", fault)
        return False


def _read(proxy: Any, step: Callable[[], Any]) -> Any:
    """One reading of the stream by `step`, and further ones past chunks that are kept back."""
    watch: Watch = proxy._self_watch
    while True:
        entered = enter(watch.observation)
        watch.running = True
        try:
            chunk = step()
        except StopIteration:
            watch.running = False
            leave(watch.observation, entered)
            watch.exhausted()
            raise
        except BaseException as error:
            watch.running = False
            leave(watch.observation, entered)
            watch.broke(error)
            raise
        watch.running = False
        leave(watch.observation, entered)
        if not _saw(watch, chunk):
            return chunk
        step = proxy.__wrapped__.__next__


async def _aread(proxy: Any, step: Callable[[], Any]) -> Any:
    watch: Watch = proxy._self_watch
    while True:
        entered = enter(watch.observation)
        watch.running = True
        try:
            chunk = await step()
        except StopAsyncIteration:
            watch.running = False
            leave(watch.observation, entered)
            watch.exhausted()
            raise
        except BaseException as error:
            watch.running = False
            leave(watch.observation, entered)
            watch.broke(error)
            raise
        watch.running = False
        leave(watch.observation, entered)
        if not _saw(watch, chunk):
            return chunk
        step = proxy.__wrapped__.__anext__


def _derived(self: Any, found: Any) -> Any:
    """What a stream gives to be read in its place: itself, or another object that is observed with it. Never raises."""
    if found is self.__wrapped__:
        return self
    if found is None:
        return None
    try:
        return _stand_in(found, self._self_watch, self._self_alive)
    except Exception as fault:  # noqa: BLE001
        self._self_watch.observation.hook.recorder.internal_error("stream", fault)
        return found


def _iter(self: Any) -> Any:
    return _derived(self, iter(self.__wrapped__))


def _aiter(self: Any) -> Any:
    return _derived(self, self.__wrapped__.__aiter__())


def _next(self: Any) -> Any:
    return _read(self, self.__wrapped__.__next__)


def _anext(self: Any) -> Any:
    return _aread(self, self.__wrapped__.__anext__)


def _send(self: Any, value: Any) -> Any:
    return _read(self, lambda: self.__wrapped__.send(value))


def _asend(self: Any, value: Any) -> Any:
    return _aread(self, lambda: self.__wrapped__.asend(value))


def _throw(self: Any, *args: Any) -> Any:
    return _read(self, lambda: self.__wrapped__.throw(*args))


def _athrow(self: Any, *args: Any) -> Any:
    return _aread(self, lambda: self.__wrapped__.athrow(*args))


def _close(self: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        result = self.__wrapped__.close(*args, **kwargs)
    except BaseException:
        self._self_watch.left()
        raise
    if inspect.isawaitable(result):
        return _then_left(result, self._self_watch)
    self._self_watch.left()
    return result


def _aclose(self: Any, *args: Any, **kwargs: Any) -> Any:
    return _then_left(self.__wrapped__.aclose(*args, **kwargs), self._self_watch)


async def _then_left(awaitable: Any, watch: Watch) -> Any:
    try:
        return await awaitable
    finally:
        watch.left()


def _enter(self: Any) -> Any:
    return _derived(self, self.__wrapped__.__enter__())


def _exit(self: Any, *args: Any) -> Any:
    try:
        return self.__wrapped__.__exit__(*args)
    finally:
        self._self_watch.left()


async def _aenter(self: Any) -> Any:
    return _derived(self, await self.__wrapped__.__aenter__())


def _aexit(self: Any, *args: Any) -> Any:
    return _then_left(self.__wrapped__.__aexit__(*args), self._self_watch)


_STREAM_METHODS: Final[dict[str, Any]] = {
    "__iter__": _iter,
    "__next__": _next,
    "send": _send,
    "throw": _throw,
    "close": _close,
    "__enter__": _enter,
    "__exit__": _exit,
    "__aiter__": _aiter,
    "__anext__": _anext,
    "asend": _asend,
    "athrow": _athrow,
    "aclose": _aclose,
    "__aenter__": _aenter,
    "__aexit__": _aexit,
}
_PROTOCOLS: Final = ("__iter__", "__enter__", "__exit__", "__aenter__", "__aexit__")


# -- awaitables ------------------------------------------------------------------------------------------------------


def observed_awaitable(awaitable: Any, observation: Observation, settle: Callable[[Observation, Any], Any]) -> Any:
    """An awaitable that behaves as the given one; `settle` takes its value and gives the one to hand on.

    A coroutine gives a coroutine. A future stays the same object unless it brings a stream; anything else is a proxy.
    """
    if isinstance(awaitable, Coroutine):
        return observed_coroutine(awaitable, lambda: _settled(awaitable, observation, settle), observation.abandoned)
    if asyncio.isfuture(awaitable):
        if not observation.stream:
            awaitable.add_done_callback(lambda future: _future_done(future, observation, settle))
            return awaitable
        awaitable.add_done_callback(lambda future: _future_broke(future, observation))
    kind = type(awaitable)
    made = _awaitable_classes.get(kind)
    if made is None:
        made = _awaitable_classes[kind] = _class_for(kind, _AWAITABLE_METHODS)
    proxy = made(awaitable)
    proxy._self_observation, proxy._self_settle, proxy._self_value = observation, settle, _MISSING
    proxy._self_dropped = weakref.finalize(proxy, observation.abandoned)
    proxy._self_dropped.atexit = False
    return proxy


def observed_coroutine(
    inner: Any, run: Callable[[], Any], never_started: Callable[[], object] | None = None
) -> Coroutine[Any, Any, Any]:
    """A native coroutine in the place of another: the same name, and one warning when nobody awaits it."""
    started = False

    async def outer() -> Any:
        nonlocal started
        started = True
        return await run()

    def dropped() -> None:
        inner.close()
        if never_started is not None and not started:
            never_started()

    coroutine: Any = outer()
    name = getattr(inner, "__name__", "coroutine")
    coroutine.__name__, coroutine.__qualname__ = name, getattr(inner, "__qualname__", name)
    weakref.finalize(coroutine, dropped).atexit = False
    made: Coroutine[Any, Any, Any] = coroutine
    return made


async def _settled(awaitable: Any, observation: Observation, settle: Callable[[Observation, Any], Any]) -> Any:
    entered = enter(observation)
    try:
        result = await awaitable
    except BaseException as error:
        leave(observation, entered)
        observation.failed(error)
        raise
    leave(observation, entered)
    return settle(observation, result)


def _future_done(future: Any, observation: Observation, settle: Callable[[Observation, Any], Any]) -> None:
    if not _future_broke(future, observation):
        settle(observation, future.result())


def _future_broke(future: Any, observation: Observation) -> bool:
    if future.cancelled():
        error: Any = asyncio.CancelledError()
    else:
        error = getattr(future, "_exception", None)  # `exception()` would count as the application having looked
    if error is not None:
        observation.failed(error)
    return error is not None


def _value(self: Any, result: Any) -> Any:
    """What the first result was settled to; the same again for every further look."""
    if self._self_value is _MISSING:
        self._self_dropped.detach()
        self._self_value = self._self_settle(self._self_observation, result)
    return self._self_value


def _await(self: Any) -> Iterator[Any]:
    return _awaited(self).__await__()


async def _awaited(proxy: Any) -> Any:
    if proxy._self_value is not _MISSING:
        await proxy.__wrapped__
        return proxy._self_value
    return await _settled(proxy.__wrapped__, proxy._self_observation, lambda _, result: _value(proxy, result))


def _result(self: Any, *args: Any) -> Any:
    return _value(self, self.__wrapped__.result(*args))


async def _aenter_awaitable(self: Any) -> Any:
    return await _settled(self.__wrapped__.__aenter__(), self._self_observation, lambda _, result: _value(self, result))


def _aexit_awaitable(self: Any, *args: Any) -> Any:
    return self.__wrapped__.__aexit__(*args)


def _aiter_awaitable(self: Any) -> Any:
    self._self_dropped.detach()
    return observed_stream(self.__wrapped__, self._self_observation).__aiter__()


_AWAITABLE_METHODS: Final[dict[str, Any]] = {
    "__await__": _await,
    "result": _result,
    "__aenter__": _aenter_awaitable,
    "__aexit__": _aexit_awaitable,
    "__aiter__": _aiter_awaitable,
}
