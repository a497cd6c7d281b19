"""The last line between a fault of tierwise's own and the application: told and counted, never passed on."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from tierwise.core.ports import Recorder

_log = logging.getLogger("tierwise")


class _Listener:
    """Who hears of faults outside any call: the recorder of the client that was instrumented last."""

    recorder: Recorder | None = None
    logged = False


_listener: Final = _Listener()


def listen(recorder: Recorder) -> None:
    """Tell this recorder of the faults that belong to no call, those of `task()` say."""
    _listener.recorder = recorder


def tell(recorder: Recorder | None, where: str, fault: BaseException) -> None:
    """Count and log a fault of ours. Raises only with `TIERWISE_RAISE=1`, whatever goes wrong while telling."""
    try:
        recorder = recorder or _listener.recorder
        if recorder is not None:
            recorder.internal_error(where, fault)
            return
        if not _listener.logged:
            _listener.logged = True
            _log.warning("tierwise: %s in %s; the application is not affected", type(fault).__name__, where)
    except Exception:
        if os.environ.get("TIERWISE_RAISE") == "1":
            raise
    else:
        if os.environ.get("TIERWISE_RAISE") == "1":
            raise fault


def quietly(recorder: Recorder | None, where: str, action: Callable[..., object], *args: Any) -> None:
    """Do something of ours in the middle of the application's work; a fault in it is told, not raised."""
    try:
        action(*args)
    except Exception as fault:  # noqa: BLE001
        tell(recorder, where, fault)


def when_gone(owner: object, recorder: Recorder | None, where: str, action: Callable[[], object]) -> Any:
    """Do something of ours when an object is collected, but not at the interpreter's end."""
    finalizer = weakref.finalize(owner, quietly, recorder, where, action)
    finalizer.atexit = False
    return finalizer


class WithoutUsage:
    """A stream that could not be observed, without the chunk that only our asking for usage brings.

    Stands for the stream in all else, and calls nothing of ours but `is_usage_alone`.
    """

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._steps = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._inner)

    def __iter__(self) -> Any:
        self._steps = iter(self._inner)
        return self

    def __next__(self) -> Any:
        while is_usage_alone(chunk := next(self._steps)):
            pass
        return chunk

    def __aiter__(self) -> Any:
        self._steps = aiter(self._inner)
        return self

    async def __anext__(self) -> Any:
        while is_usage_alone(chunk := await anext(self._steps)):
            pass
        return chunk

    def __enter__(self) -> Any:
        self._inner.__enter__()
        return self

    def __exit__(self, *args: Any) -> Any:
        return self._inner.__exit__(*args)

    async def __aenter__(self) -> Any:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *args: Any) -> Any:
        return await self._inner.__aexit__(*args)


async def awaited_without_usage(awaitable: Any) -> Any:
    """The stream that an awaitable brings, as `WithoutUsage`."""
    return WithoutUsage(await awaitable)


def is_usage_alone(chunk: Any) -> bool:
    """Whether a chunk holds usage and no choices: the last word where a dialect could not look at it. Never raises."""
    with suppress(Exception):
        if isinstance(chunk, dict):
            return not chunk.get("choices") and chunk.get("usage") is not None
        return not getattr(chunk, "choices", None) and getattr(chunk, "usage", None) is not None
    return False
