"""Registering checks: what each looks at, what is refused, and that the ready-made ones work through a client."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Iterator

import pytest

import tierwise
from support.canned import ASK, chat, sync_client
from tierwise.core.checks import bullets, json_schema, min_confidence
from tierwise.core.errors import ConfigError
from tierwise.instrument.checks import checks_for, forget_checks
from tierwise.instrument.parsing import compile_schema
from tierwise.testing import instrument_in_memory


@pytest.fixture(autouse=True)
def _own_checks() -> Iterator[None]:
    forget_checks()
    yield
    forget_checks()


def test_ready_made_checks_know_what_they_look_at() -> None:
    """Without `on`, a ready-made check sees text, value or log probability as it needs; a plain function sees text."""
    tierwise.check("t")(bullets(5))
    tierwise.check("t")(json_schema({"type": "object"}, compile_schema=compile_schema))
    tierwise.check("t", threshold=0.7)(min_confidence(field="sure"))
    tierwise.check("t")(min_confidence(logprob=-0.5))
    tierwise.check("t", name="mine")(lambda text: text.isupper())
    tierwise.check("t", name="value", on="value")(lambda value: value == 1)
    assert [(check.name, check.on, check.threshold) for check in checks_for("t")] == [
        ("bullets(5)", "text", 1.0),
        ("json_schema", "value", 1.0),
        ("min_confidence(sure)", "value", 0.7),
        ("min_confidence(logprob)", "logprob", 1.0),
        ("mine", "text", 1.0),
        ("value", "value", 1.0),
    ]


@pytest.mark.parametrize(
    ("text", "outcome"), [('{"a": 1}', "success"), ('{"b": 1}', "check_failed"), ("a", "check_failed")]
)
def test_a_schema_check_sees_the_value(text: str, outcome: str) -> None:
    """`check("t")(json_schema(...))` judges the parsed answer, also where no JSON was expected."""
    tierwise.check("t")(json_schema({"type": "object", "required": ["a"]}, compile_schema=compile_schema))
    client, _ = sync_client(chat(text))
    recorder = instrument_in_memory(client, task="t")
    client.chat.completions.create(**ASK)
    assert ([call.outcome for call in recorder.calls], recorder.errors) == ([outcome], [])


async def _waits(text: str) -> bool:
    return True


async def _yields(text: str) -> AsyncIterator[bool]:
    yield True


class _Waits:
    async def __call__(self, text: str) -> bool:
        return True


@pytest.mark.parametrize(
    "function", [_waits, _yields, _Waits(), functools.partial(_waits)], ids=lambda one: type(one).__name__
)
def test_async_checks_are_refused(function: object) -> None:
    """A coroutine would count as true: an async check is refused when it is registered."""
    with pytest.raises(ConfigError, match=r"check for 't': .* is async"):
        tierwise.check("t")(function)  # type: ignore[type-var]
    assert checks_for("t") == ()


def test_a_plain_function_around_an_async_one_is_accepted() -> None:
    """What a decorator has made of an async function counts, not the function inside."""

    @functools.wraps(_waits)
    def ran(text: str) -> bool:
        return True

    tierwise.check("t")(ran)
    assert [check.name for check in checks_for("t")] == ["_waits"]


def test_something_that_cannot_be_called_is_refused() -> None:
    """A check that is no function says so when it is registered."""
    with pytest.raises(ConfigError, match="is not a function"):
        tierwise.check("t")(5)  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"on": "image"}, "'text', 'value' or 'logprob'"),
        ({"on": ""}, "'text', 'value' or 'logprob'"),
        ({"threshold": 1.5}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
    ],
)
def test_wrong_arguments_of_a_check_are_named(wrong: dict[str, object], message: str) -> None:
    """Each wrong argument is a ConfigError before any function is there."""
    with pytest.raises(ConfigError, match=message):
        tierwise.check("t", **wrong)  # type: ignore[arg-type]
