"""`task()`: context manager and decorator of every kind of function; the innermost wins, nothing leaks."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

import tierwise
from support.canned import ASK, async_client, chat, sync_client
from tierwise.core.errors import ConfigError
from tierwise.instrument.context import bench_round, current_scope, effective_context
from tierwise.testing import instrument_in_memory


def _name() -> str:
    return effective_context(current_scope(), "unassigned").name


def test_the_innermost_task_wins_and_is_undone() -> None:
    """Nested blocks shadow each other and are restored."""
    assert _name() == "unassigned"
    with tierwise.task("outer"):
        assert _name() == "outer"
        with tierwise.task("inner"):
            assert _name() == "inner"
        assert _name() == "outer"
    assert _name() == "unassigned"


def test_a_block_left_by_an_exception_is_undone() -> None:
    """An exception passes through and the task is gone."""
    with pytest.raises(RuntimeError, match="boom"), tierwise.task("x"):
        raise RuntimeError("boom")
    assert _name() == "unassigned"


def test_decorated_functions_run_inside_their_task() -> None:
    """Sync and async functions keep name and result."""

    @tierwise.task("sync")
    def work(value: int) -> tuple[str, int]:
        """Doc."""
        return _name(), value

    @tierwise.task("async")
    async def awork() -> str:
        await asyncio.sleep(0)
        return _name()

    assert work(3) == ("sync", 3)
    assert (work.__name__, work.__doc__) == ("work", "Doc.")
    assert asyncio.run(awork()) == "async"
    assert _name() == "unassigned"


def test_bare_decorator_takes_the_functions_name() -> None:
    """`@tierwise.task` without a name uses the function's."""

    @tierwise.task
    def summarise() -> str:
        return _name()

    assert summarise() == "summarise"


def test_generator_holds_no_task_across_a_yield() -> None:
    """While a decorated generator is suspended its caller is outside the task; send, throw and return work."""
    seen: list[str] = []

    @tierwise.task("gen")
    def numbers() -> Iterator[int]:
        seen.append(_name())
        try:
            got = yield 1
            seen.append(f"{_name()}:{got}")
            yield 2
        except ValueError:
            seen.append("caught in " + _name())
            yield 3
        return 9

    generator = numbers()
    assert next(generator) == 1
    assert _name() == "unassigned"
    assert generator.send("hi") == 2
    assert generator.throw(ValueError()) == 3
    with pytest.raises(StopIteration) as stop:
        next(generator)
    assert stop.value.value == 9
    assert seen == ["gen", "gen:hi", "caught in gen"]


def test_closing_a_decorated_generator_closes_it_inside() -> None:
    """The inner generator's finally runs when the outer one is closed."""
    closed: list[bool] = []

    @tierwise.task("gen")
    def numbers() -> Iterator[int]:
        try:
            yield 1
        finally:
            closed.append(True)

    generator = numbers()
    next(generator)
    generator.close()
    assert closed == [True]


def test_async_generator_holds_no_task_across_a_yield() -> None:
    """The same for async generators, closed early as well."""

    @tierwise.task("agen")
    async def names() -> AsyncIterator[str]:
        yield _name()
        await asyncio.sleep(0)
        yield _name()

    async def go() -> list[str]:
        seen = []
        async for name in names():
            seen.append(name)
            seen.append(_name())
        early = names()
        seen.append(await early.__anext__())
        await early.aclose()
        return seen

    assert asyncio.run(go()) == ["agen", "unassigned", "agen", "unassigned", "agen"]


def test_a_block_ended_in_another_context_raises_nothing() -> None:
    """A generator moved between contexts (as some servers do) must not break the application."""

    def inside() -> Iterator[None]:
        with tierwise.task("moved"):
            yield

    generator = inside()
    contextvars.copy_context().run(next, generator)
    contextvars.copy_context().run(lambda: list(generator))
    assert _name() == "unassigned"


def test_tasks_of_threads_and_coroutines_do_not_mix() -> None:
    """Each thread and each asyncio task sees its own."""
    seen: dict[str, str] = {}

    def thread(name: str) -> None:
        with tierwise.task(name):
            seen[name] = _name()

    threads = [threading.Thread(target=thread, args=(f"t{n}",)) for n in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert all(key == value for key, value in seen.items())


def test_task_of_the_client_is_the_fallback() -> None:
    """`instrument(client, task=)` names what no block names."""
    client, _ = sync_client(chat())
    recorder = instrument_in_memory(client, task="fallback")
    client.chat.completions.create(**ASK)
    with tierwise.task("named"):
        client.chat.completions.create(**ASK)
    assert [call.task for call in recorder.calls] == ["fallback", "named"]


def test_bench_rounds_stamp_their_calls() -> None:
    """Calls inside a bench round carry session and round and count as randomised."""
    client, _ = async_client(chat())
    recorder = instrument_in_memory(client)

    async def go() -> None:
        with bench_round("s-1", 3), tierwise.task("summary"):
            await client.chat.completions.create(**ASK)

    asyncio.run(go())
    (call,) = recorder.calls
    assert (call.context.session, call.context.round, call.grade, call.task) == ("s-1", 3, "randomised", "summary")


@pytest.mark.parametrize(
    "wrong", [{"name": ""}, {"name": 3}, {"name": "x", "risk": "extreme"}, {"name": "x", "expects": "xml"}]
)
def test_wrong_arguments_are_named(wrong: dict[str, object]) -> None:
    """Wrong use raises a ConfigError that repeats the value."""
    name = wrong.pop("name")
    with pytest.raises(ConfigError):
        tierwise.task(name, **wrong)  # type: ignore[call-overload]


def test_a_run_inside_a_bench_round_belongs_to_that_round() -> None:
    """A run with a `run_id` carries the round's stamp, so that its evidence joins the round's bucket."""
    client, _ = sync_client(chat())
    recorder = instrument_in_memory(client)
    with bench_round("s-2", 7), tierwise.task("work", run_id="r"):
        client.chat.completions.create(**ASK)
    assert [(run.session, run.round, run.grade) for run in recorder.runs] == [("s-2", 7, "randomised")]
