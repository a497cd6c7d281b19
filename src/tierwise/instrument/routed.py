"""Sending a routed run: call after call until one will do, in the caller's thread or task.

What is here stands between the application and the rest: each step of ours is guarded, and where one fails the application
gets what there is, in the worst case the answer of the default model.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from contextvars import Token
from typing import Any, Final

from tierwise.instrument.cleanup import NOT_CLEANED
from tierwise.instrument.dialects.values import fields
from tierwise.instrument.drawing import AUTO, QuickRun
from tierwise.instrument.guard import quietly, tell
from tierwise.instrument.hook import Hook
from tierwise.instrument.ladder import Attempt, RoutedRun
from tierwise.instrument.marks import put

_NOTHING: Final = object()
_MAX_HELD: Final = 64
"""Chunks without content that are held back at most."""

Send = Callable[..., Any]


def route_sync(send: Send, owner: Any, client: Any, run: RoutedRun, cast_to: Any, options: Any, stream_cls: Any) -> Any:
    """Send a run's calls; returns the last answer, or raises the first error where there is none."""
    progress = _Progress(run.hook, run)
    try:
        going = run.begun is None or progress.goes_on(*run.begun)
        while going and (attempt := progress.next(client)) is not None:
            lane = attempt.lane
            found, error = _NOTHING, None
            try:
                found = send(
                    lane.owner or owner, lane.client or client, attempt.observation, cast_to, attempt.options, attempt.stream,
                    stream_cls if attempt.stream else None,
                )  # fmt: skip
            except Exception as raised:  # noqa: BLE001 - raised again below, unless another candidate answers
                error = raised
            if error is None and attempt.stream and progress.peeks(attempt):
                error = peek(found)
            going = progress.goes_on(attempt, found, error)
    finally:
        progress.end()
    if progress.result is not _NOTHING:
        return progress.result
    if progress.error is not None:
        raise progress.error
    plain = with_default_model(run.hook, options, run)
    return owner.request(client, cast_to, plain, stream=run.streams, stream_cls=stream_cls)


async def route_async(
    send: Send, owner: Any, client: Any, run: RoutedRun, cast_to: Any, options: Any, stream_cls: Any
) -> Any:
    """As `route_sync`, awaited."""
    progress = _Progress(run.hook, run)
    try:
        going = run.begun is None or progress.goes_on(*run.begun)
        while going and (attempt := progress.next(client)) is not None:
            lane = attempt.lane
            found, error = _NOTHING, None
            try:
                found = await send(
                    lane.owner or owner, lane.client or client, attempt.observation, cast_to, attempt.options, attempt.stream,
                    stream_cls if attempt.stream else None,
                )  # fmt: skip
            except Exception as raised:  # noqa: BLE001 - raised again below, unless another candidate answers
                error = raised
            if error is None and attempt.stream and progress.peeks(attempt):
                error = await apeek(found)
            going = progress.goes_on(attempt, found, error)
    finally:
        progress.end()
    if progress.result is not _NOTHING:
        return progress.result
    if progress.error is not None:
        raise progress.error
    plain = with_default_model(run.hook, options, run)
    return await owner.request(client, cast_to, plain, stream=run.streams, stream_cls=stream_cls)


def quick_sync(
    send: Send, owner: Any, client: Any, quick: QuickRun, cast_to: Any, options: Any, stream_cls: Any
) -> Any:
    """Send a run that is over with its first success, which nearly every one is; else `route_sync` goes on."""
    try:
        observation, shaped = quick.attempt()
    except Exception as fault:  # noqa: BLE001
        plain = with_default_model(quick.hook, options)
        tell(quick.hook.recorder, "route", fault)
        return owner.request(client, cast_to, plain, stream_cls=stream_cls)
    found, error = _NOTHING, None
    try:
        found = send(owner, client, observation, cast_to, shaped, False, None)
    except Exception as raised:
        if quick.rest is None:
            raise
        error = raised
    if quick.rest is None:
        return found
    try:
        quick.rest.begun = (quick.begun(observation, shaped), found, error)
    except Exception as fault:  # noqa: BLE001 - the run begins anew: one call more, the same answer
        tell(quick.hook.recorder, "route", fault)
    return route_sync(send, owner, client, quick.rest, cast_to, options, stream_cls)


async def quick_async(
    send: Send, owner: Any, client: Any, quick: QuickRun, cast_to: Any, options: Any, stream_cls: Any
) -> Any:
    """As `quick_sync`, awaited."""
    try:
        observation, shaped = quick.attempt()
    except Exception as fault:  # noqa: BLE001
        plain = with_default_model(quick.hook, options)
        tell(quick.hook.recorder, "route", fault)
        return await owner.request(client, cast_to, plain, stream_cls=stream_cls)
    found, error = _NOTHING, None
    try:
        found = await send(owner, client, observation, cast_to, shaped, False, None)
    except Exception as raised:
        if quick.rest is None:
            raise
        error = raised
    if quick.rest is None:
        return found
    try:
        quick.rest.begun = (quick.begun(observation, shaped), found, error)
    except Exception as fault:  # noqa: BLE001 - the run begins anew: one call more, the same answer
        tell(quick.hook.recorder, "route", fault)
    return await route_async(send, owner, client, quick.rest, cast_to, options, stream_cls)


class _Progress:
    """How far a run has come: what the application gets if it ends here. No method raises."""

    __slots__ = ("_hook", "_run", "_token", "error", "result")

    def __init__(self, hook: Hook, run: RoutedRun) -> None:
        self._hook, self._run = hook, run
        self.result: Any = _NOTHING
        self.error: Exception | None = None
        self._token: object = None
        try:
            if run.span is not None:
                self._token = hook.recorder.activate(run.span)
        except Exception as fault:  # noqa: BLE001
            tell(hook.recorder, "run", fault)

    def next(self, client: Any) -> Attempt | None:
        """The next call to send."""
        try:
            return self._run.attempt(client)
        except Exception as fault:  # noqa: BLE001
            tell(self._hook.recorder, "route", fault)
            return None

    def peeks(self, attempt: Attempt) -> bool:
        """Whether to read a stream up to its first content."""
        try:
            return self._run.may_peek(attempt)
        except Exception as fault:  # noqa: BLE001
            tell(self._hook.recorder, "peek", fault)
            return False

    def goes_on(self, attempt: Attempt, found: Any, error: Exception | None) -> bool:
        """Take what a call brought; whether there is another one to send."""
        run, recorder = self._run, self._hook.recorder
        if not attempt.draft:
            self._take(found, error)
        try:
            if attempt.draft and run.hands_out_drafts:
                self._take(found, None)
            cleaned = run.cleaned(attempt, None if found is _NOTHING else found)
            if cleaned is not NOT_CLEANED:
                self.result = cleaned
                put(cleaned, attempt.observation)
                return False
        except Exception as fault:  # noqa: BLE001
            tell(recorder, "cleanup", fault)
        try:
            return run.goes_on(attempt, error)
        except Exception as fault:  # noqa: BLE001
            tell(recorder, "ladder", fault)
            return False

    def _take(self, found: Any, error: Exception | None) -> None:
        if found is not _NOTHING:
            self.result = found
        elif self.error is None:
            self.error = error

    def end(self) -> None:
        """The last call has been sent."""
        recorder = self._hook.recorder
        if self._token is not None:
            try:
                recorder.deactivate(self._token)
            except Exception as fault:  # noqa: BLE001
                with suppress(ValueError):
                    if isinstance(self._token, Token):  # the application's own spans must not come out under the run's
                        self._token.var.reset(self._token)
                tell(recorder, "run", fault)
        quietly(recorder, "run", self._run.end)


def with_default_model(hook: Hook, options: Any, run: RoutedRun | None = None) -> Any:
    """The request with a model in the place of `auto`, after a fault of ours. Never raises."""
    try:
        model = hook.default_model if run is None else hook.default_model or run.draw.candidate
        body = {**options.json_data, **(options.extra_json or {})}
        if hook.wiring.router is None or model is None or body.get("model") != AUTO:
            return options
        copied = options.model_copy() if hasattr(options, "model_copy") else options.copy()
        copied.json_data, copied.extra_json = {**body, "model": model}, None
    except Exception:  # noqa: BLE001 - the fault that brought us here is the one that is told
        return options
    else:
        return copied


# -- streams up to their first content --------------------------------------------------------------------------------


def peek(stream: Any) -> Exception | None:
    """Read a stream up to its first content and put back what was read; the error that came before any. Never raises."""
    inner = getattr(stream, "_iterator", None)
    if inner is None:
        return None
    held: list[Any] = []
    error = None
    try:
        for chunk in inner:
            held.append(chunk)
            if len(held) >= _MAX_HELD or has_content(chunk):
                break
    except Exception as raised:  # noqa: BLE001 - raised again where the application reads
        error = raised
    stream._iterator = _replayed(held, inner, error)
    return error


async def apeek(stream: Any) -> Exception | None:
    """As `peek`, awaited."""
    inner = getattr(stream, "_iterator", None)
    if inner is None:
        return None
    held: list[Any] = []
    error = None
    try:
        async for chunk in inner:
            held.append(chunk)
            if len(held) >= _MAX_HELD or has_content(chunk):
                break
    except Exception as raised:  # noqa: BLE001 - raised again where the application reads
        error = raised
    stream._iterator = _areplayed(held, inner, error)
    return error


def _replayed(held: list[Any], inner: Iterator[Any], error: Exception | None) -> Iterator[Any]:
    yield from held
    held.clear()
    if error is not None:
        raise error
    yield from inner


async def _areplayed(held: list[Any], inner: Any, error: Exception | None) -> AsyncIterator[Any]:
    try:
        for chunk in held:
            yield chunk
        if error is not None:
            raise error
        async for chunk in inner:
            yield chunk
    except GeneratorExit:
        await inner.aclose()
        raise


def has_content(chunk: Any) -> bool:
    """Whether a chunk brings something of the answer; true for what is of an unknown shape. Never raises."""
    try:
        found = fields(chunk)
        kind = found.get("type")
        if isinstance(kind, str):
            return ".delta" in kind or kind.endswith("output_item.done")
        choices = found.get("choices")
        if not isinstance(choices, list):
            return True
        return any(_says(choice) for choice in choices)
    except Exception:  # noqa: BLE001 - then the stream is the application's from here on
        return True


def _says(choice: Any) -> bool:
    found = fields(choice)
    delta = found.get("delta")
    if delta is None:
        return bool(found.get("text"))
    said = {**fields(delta), **(getattr(delta, "__pydantic_extra__", None) or {})}
    return any(value for name, value in said.items() if name != "role")
