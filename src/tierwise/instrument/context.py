"""The task around a call: `task()` as context manager and decorator, carried in a contextvar."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Literal, TypeVar, cast, overload

from tierwise.core.call import Risk, TaskContext
from tierwise.core.errors import ConfigError
from tierwise.instrument.guard import quietly, tell
from tierwise.instrument.runstate import RunState

F = TypeVar("F", bound=Callable[..., Any])
_MAX_NAME = 200


class Scope:
    """One entered `task()`: its context, its run when it has a `run_id`, who entered it, and what was around it."""

    __slots__ = ("context", "left", "outer", "owner", "run")

    def __init__(self, context: TaskContext, owner: object = None, outer: Scope | None = None) -> None:
        self.context = context
        self.run = RunState() if context.run_id is not None else None
        self.owner = owner
        self.outer = outer
        self.left = False


_scope: ContextVar[Scope | None] = ContextVar("tierwise_task", default=None)
_bench: ContextVar[tuple[str, int] | None] = ContextVar("tierwise_bench", default=None)


def current_scope() -> Scope | None:
    """The innermost entered task, or `None`."""
    return _scope.get()


def current_bench() -> tuple[str, int] | None:
    """(session, round) of the bench round around this call, or `None`."""
    return _bench.get()


@contextmanager
def bench_round(session: str, number: int) -> Iterator[None]:
    """Stamp the calls made inside with a bench session and round: an evidence bucket of its own."""
    token = _bench.set((session, number))
    try:
        yield
    finally:
        with suppress(ValueError):  # entered in another context (a generator moved between tasks)
            _bench.reset(token)


class Task:
    """A named kind of work: `with task("summary"):`, `async with …`, or a decorator. Reusable and re-entrant."""

    __slots__ = ("_context", "_entered")

    def __init__(self, context: TaskContext) -> None:
        self._context = context
        # Only for a block that ends in another context than it began in; one object may be entered by many at once.
        self._entered: list[Scope] = []

    def __enter__(self) -> TaskContext:
        try:
            scope = Scope(self._context, self, _scope.get())
            self._entered.append(scope)
            _scope.set(scope)
        except Exception as fault:  # noqa: BLE001
            tell(None, "task", fault)
        return self._context

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            innermost = _scope.get()
            scope = innermost
            while scope is not None and (scope.owner is not self or scope.left):
                scope = scope.outer
            if scope is None:  # a generator moved between contexts: nothing of ours is set in this one
                if not self._entered:
                    return
                scope = self._entered[-1]
            elif scope is innermost:
                _scope.set(scope.outer)
            scope.left = True
            self._entered.remove(scope)
            if scope.run is not None:
                scope.run.close()
        except Exception as fault:  # noqa: BLE001
            tell(None, "task", fault)

    async def __aenter__(self) -> TaskContext:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, trace)

    def __call__(self, function: F) -> F:
        """Decorate a sync, async, generator or async generator function: each invocation is one entered task."""
        context = self._context
        if inspect.isasyncgenfunction(function):

            @functools.wraps(function)
            def async_generator(*args: Any, **kwargs: Any) -> Any:
                return _driven(_drive_async, function(*args, **kwargs), context)

            return cast(F, async_generator)
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def coroutine(*args: Any, **kwargs: Any) -> Any:
                with self:
                    return await function(*args, **kwargs)

            return cast(F, coroutine)
        if inspect.isgeneratorfunction(function):

            @functools.wraps(function)
            def generator(*args: Any, **kwargs: Any) -> Any:
                return _driven(_drive, function(*args, **kwargs), context)

            return cast(F, generator)

        @functools.wraps(function)
        def plain(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return cast(F, plain)


def _driven(drive: Callable[[Any, Scope], Any], inner: Any, context: TaskContext) -> Any:
    """A generator with its task around it, or as it is. Never raises."""
    try:
        return drive(inner, Scope(context))
    except Exception as fault:  # noqa: BLE001
        tell(None, "task", fault)
        return inner


def _drive(inner: Generator[Any, Any, Any], scope: Scope) -> Generator[Any, Any, Any]:
    """Run a generator with the task set while it runs and unset while it is suspended."""
    step: Callable[[], Any] = functools.partial(next, inner)
    try:
        while True:
            token = _scope.set(scope)
            try:
                item = step()
            except StopIteration as stop:
                return stop.value
            finally:
                with suppress(ValueError):
                    _scope.reset(token)
            try:
                sent = yield item
            except GeneratorExit:
                inner.close()
                raise
            except BaseException:  # noqa: BLE001 - handed to the inner generator as it came
                step = functools.partial(inner.throw, cast(BaseException, sys.exc_info()[1]))
            else:
                step = functools.partial(inner.send, sent)
    finally:
        if scope.run is not None:
            quietly(None, "run", scope.run.close)


async def _drive_async(inner: AsyncGenerator[Any, Any], scope: Scope) -> AsyncGenerator[Any, Any]:
    step: Callable[[], Any] = inner.__anext__
    try:
        while True:
            token = _scope.set(scope)
            try:
                item = await step()
            except StopAsyncIteration:
                return
            finally:
                with suppress(ValueError):
                    _scope.reset(token)
            try:
                sent = yield item
            except GeneratorExit:
                await inner.aclose()
                raise
            except BaseException:  # noqa: BLE001 - handed to the inner generator as it came
                step = functools.partial(inner.athrow, cast(BaseException, sys.exc_info()[1]))
            else:
                step = functools.partial(inner.asend, sent)
    finally:
        if scope.run is not None:
            quietly(None, "run", scope.run.close)


_NOTHING_SAID: Final = (None, None, None, None, None, None, False, True)


@overload
def task(name: F, /) -> F: ...
@overload
def task(
    name: str,
    *,
    risk: Risk | None = None,
    expects: Literal["json", "text"] | None = None,
    schema: Mapping[str, object] | None = None,
    labels: Mapping[str, str] | None = None,
    prompt_version: str | None = None,
    run_id: str | None = None,
    randomised: bool = False,
    route: bool = True,
) -> Task: ...
def task(
    name: str | F,
    *,
    risk: Risk | None = None,
    expects: Literal["json", "text"] | None = None,
    schema: Mapping[str, object] | None = None,
    labels: Mapping[str, str] | None = None,
    prompt_version: str | None = None,
    run_id: str | None = None,
    randomised: bool = False,
    route: bool = True,
) -> Task | F:
    """Name the kind of work that the calls inside belong to.

    `with tierwise.task("strict-json", expects="json"): …`, `@tierwise.task("summary")`, or bare `@tierwise.task`, which
    takes the function's name. The innermost task wins over `instrument(client, task=)`.

    `risk` is `low`, `normal` or `high`; `expects="json"` or a JSON `schema` makes every answer be judged as JSON;
    `labels` are the application's own; `prompt_version` opens a new epoch when it changes; calls inside one `run_id`
    are one run, which ends with the block; `randomised=True` declares that the application drew the model at random;
    `route=False` keeps the calls out of routing. Ids, versions and labels of other types (a UUID, a number) are kept as text.

    Raises `ConfigError` for an empty name, an unknown risk or expectation, labels that are no mapping.
    """
    if callable(name):
        return task(name.__name__)(name)
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"task name must be a non-empty string, got {name!r}; write tierwise.task('summary')")
    if risk not in (None, "low", "normal", "high"):
        raise ConfigError(f"task {name!r}: risk must be 'low', 'normal' or 'high', got {risk!r}")
    if expects not in (None, "json", "text"):
        raise ConfigError(f"task {name!r}: expects must be 'json' or 'text', got {expects!r}")
    if labels is not None and not isinstance(labels, Mapping):
        raise ConfigError(f"task {name!r}: labels must be a mapping such as {{'tenant': 'a'}}, got {labels!r:.80}")
    try:
        if (risk, expects, schema, labels, prompt_version, run_id, randomised, route) == _NOTHING_SAID:
            return Task(_named(name[:_MAX_NAME]))
        return Task(
            TaskContext(
                name=name[:_MAX_NAME],
                risk=risk,
                expects=expects,
                schema=schema,
                labels={_text(key): _text(value) for key, value in labels.items()} if labels else {},
                prompt_version=None if prompt_version is None else _text(prompt_version),
                run_id=None if run_id is None else _text(run_id),
                randomised=randomised,
                route=route,
            )
        )
    except Exception as fault:  # noqa: BLE001
        tell(None, "task", fault)
        return _NAMELESS


def _text(value: object) -> str:
    return value if isinstance(value, str) else str(value)


_NAMELESS: Final = Task(TaskContext())


@functools.lru_cache(maxsize=1024)
def _named(name: str) -> TaskContext:
    return TaskContext(name=name)


def effective_context(scope: Scope | None, default_task: str) -> TaskContext:
    """The task of a call made now: the innermost `task()`, else the client's default; bench stamps added."""
    context = scope.context if scope is not None else _named(default_task)
    bench = _bench.get()
    if bench is not None:
        return replace(context, session=bench[0], round=bench[1], randomised=True)
    return context
