"""Stand-ins for streams and awaitables of any make: the object the application got, observed while it is used.

A stand-in is a transparent wrapt proxy of a class made for the wrapped object's type, so that it has exactly the
protocols which that type has: `isinstance`, attributes and `async for` see what they would have seen.
"""

from __future__ import annotations

import asyncio
import inspect
import weakref
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from time import perf_counter
from typing import Any, Final

import wrapt

from tierwise.instrument.entering import enter, leave
from tierwise.instrument.guard import WithoutUsage, awaited_without_usage, is_usage_alone, quietly, tell, when_gone
from tierwise.instrument.litellm import StreamOfLitellm, readable, received_chunks
from tierwise.instrument.observation import Observation
from tierwise.instrument.streams import Watch

TransparentProxy: Any = getattr(wrapt, "BaseObjectProxy", wrapt.ObjectProxy)
"""wrapt's proxy without an `__iter__` of its own, where this wrapt has one."""
_MISSING: Final = object()
Settle = Callable[[Observation, Any], Any]
"""Takes in what a call returned; gives what the application gets."""
_classes: weakref.WeakKeyDictionary[type, Any] = weakref.WeakKeyDictionary()
_awaitable_classes: weakref.WeakKeyDictionary[type, Any] = weakref.WeakKeyDictionary()


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
    when_gone(alive, observation.hook.recorder, "left", watch.left)
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
    """Take note of a chunk; true when it is to be kept back because only our request brought it."""
    observation = watch.observation
    now = perf_counter()
    if not observation.ended:
        observation.last_at = now
        observation.first_at = observation.first_at or now
        observation.chunks += 1
    return watch.reader.see(readable(chunk)) and observation.hide_usage


def _kept_back(watch: Watch, chunk: Any) -> bool:
    """What `_saw` says, or where that fails what the chunk itself does. Never raises."""
    try:
        return _saw(watch, chunk)
    except Exception as fault:  # noqa: BLE001
        tell(watch.observation.hook.recorder, "chunk", fault)
        return watch.observation.hide_usage and is_usage_alone(chunk)


def _read(proxy: Any, step: Callable[[], Any]) -> Any:
    """One reading of the stream by `step`, and further ones past chunks that are kept back."""
    watch: Watch = proxy._self_watch
    recorder = watch.observation.hook.recorder
    while True:
        entered = enter(watch.observation)
        watch.running = True
        try:
            chunk = step()
        except StopIteration:
            watch.running = False
            leave(watch.observation, entered)
            quietly(recorder, "exhausted", watch.exhausted)
            raise
        except BaseException as error:
            watch.running = False
            leave(watch.observation, entered)
            quietly(recorder, "broke", watch.broke, error)
            raise
        watch.running = False
        leave(watch.observation, entered)
        if not _kept_back(watch, chunk):
            return chunk
        step = proxy.__wrapped__.__next__


async def _aread(proxy: Any, step: Callable[[], Any]) -> Any:
    watch: Watch = proxy._self_watch
    recorder = watch.observation.hook.recorder
    while True:
        entered = enter(watch.observation)
        watch.running = True
        try:
            chunk = await step()
        except StopAsyncIteration:
            watch.running = False
            leave(watch.observation, entered)
            quietly(recorder, "exhausted", watch.exhausted)
            raise
        except BaseException as error:
            watch.running = False
            leave(watch.observation, entered)
            quietly(recorder, "broke", watch.broke, error)
            raise
        watch.running = False
        leave(watch.observation, entered)
        if not _kept_back(watch, chunk):
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
        return unobserved(self._self_watch.observation, found, fault)


def unobserved(observation: Observation, result: Any, fault: Exception) -> Any:
    """What could not be observed, as the application gets it; the call ends here. Never raises."""
    quietly(observation.hook.recorder, "unread", observation.answered_unread, fault)
    if not observation.hide_usage or hasattr(result, "choices"):
        return result
    return awaited_without_usage(result) if inspect.isawaitable(result) else WithoutUsage(result)


def taken(settle: Settle, observation: Observation, result: Any) -> Any:
    """What `settle` makes of a result, or the result as it is. Never raises."""
    try:
        return settle(observation, result)
    except Exception as fault:  # noqa: BLE001
        return unobserved(observation, result, fault)


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
        self._self_watch.close()
        raise
    if inspect.isawaitable(result):
        return _then_left(result, self._self_watch)
    self._self_watch.close()
    return result


def _aclose(self: Any, *args: Any, **kwargs: Any) -> Any:
    return _then_left(self.__wrapped__.aclose(*args, **kwargs), self._self_watch)


async def _then_left(awaitable: Any, watch: Watch) -> Any:
    try:
        return await awaitable
    finally:
        watch.close()


def _enter(self: Any) -> Any:
    return _derived(self, self.__wrapped__.__enter__())


def _exit(self: Any, *args: Any) -> Any:
    try:
        return self.__wrapped__.__exit__(*args)
    finally:
        self._self_watch.close()


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


def observed_awaitable(awaitable: Any, observation: Observation, settle: Settle) -> Any:
    """An awaitable that behaves as the given one; `settle` takes its value and gives the one to hand on.

    A coroutine gives a coroutine. A future stays the same object unless it brings a stream; anything else is a proxy.
    """
    if isinstance(awaitable, Coroutine):
        return observed_coroutine(awaitable, partial(_settled, awaitable, observation, settle), observation.abandoned)
    recorder = observation.hook.recorder
    if asyncio.isfuture(awaitable):
        done = _future_broke if observation.stream else partial(_future_done, settle)
        awaitable.add_done_callback(partial(quietly, recorder, "future", partial(done, observation)))
        if not observation.stream:
            return awaitable
    kind = type(awaitable)
    made = _awaitable_classes.get(kind)
    if made is None:
        made = _awaitable_classes[kind] = _class_for(kind, _AWAITABLE_METHODS)
    proxy = made(awaitable)
    proxy._self_observation, proxy._self_settle, proxy._self_value = observation, settle, _MISSING
    proxy._self_dropped = when_gone(proxy, recorder, "abandoned", observation.abandoned)
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
    try:
        when_gone(coroutine, None, "abandoned", dropped)
    except Exception:
        coroutine.close()  # or the application would be warned of a coroutine that it never had
        raise
    made: Coroutine[Any, Any, Any] = coroutine
    return made


async def _settled(awaitable: Any, observation: Observation, settle: Settle) -> Any:
    entered = enter(observation)
    try:
        result = await awaitable
    except BaseException as error:
        leave(observation, entered)
        quietly(observation.hook.recorder, "failed", observation.failed, error)
        raise
    leave(observation, entered)
    return taken(settle, observation, result)


def _future_done(settle: Settle, observation: Observation, future: Any) -> None:
    if not _future_broke(observation, future):
        settle(observation, future.result())


def _future_broke(observation: Observation, future: Any) -> bool:
    if future.cancelled():
        error: Any = asyncio.CancelledError()
    else:
        error = getattr(future, "_exception", None)  # `exception()` would count as the application having looked
    if error is not None:
        observation.failed(error)
    return error is not None


def _value(self: Any, observation: Observation, result: Any) -> Any:
    """What the first result was settled to; the same again for every further look."""
    if self._self_value is _MISSING:
        self._self_dropped.detach()
        self._self_value = taken(self._self_settle, observation, result)
    return self._self_value


def _await(self: Any) -> Iterator[Any]:
    return _awaited(self).__await__()


async def _awaited(proxy: Any) -> Any:
    if proxy._self_value is not _MISSING:
        await proxy.__wrapped__
        return proxy._self_value
    return await _settled(proxy.__wrapped__, proxy._self_observation, partial(_value, proxy))


def _result(self: Any, *args: Any) -> Any:
    return taken(partial(_value, self), self._self_observation, self.__wrapped__.result(*args))


async def _aenter_awaitable(self: Any) -> Any:
    return await _settled(self.__wrapped__.__aenter__(), self._self_observation, partial(_value, self))


def _aexit_awaitable(self: Any, *args: Any) -> Any:
    return self.__wrapped__.__aexit__(*args)


def _aiter_awaitable(self: Any) -> Any:
    self._self_dropped.detach()
    return taken(_observed_awaited, self._self_observation, self.__wrapped__).__aiter__()


def _observed_awaited(observation: Observation, stream: Any) -> Any:
    return observed_stream(stream, observation)


_AWAITABLE_METHODS: Final[dict[str, Any]] = {
    "__await__": _await,
    "result": _result,
    "__aenter__": _aenter_awaitable,
    "__aexit__": _aexit_awaitable,
    "__aiter__": _aiter_awaitable,
}
