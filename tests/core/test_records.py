"""Quick records behave as the frozen dataclasses they are."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from tierwise.core.call import Answer, Call, Request, TaskContext, Usage, make_call, make_request, make_usage
from tierwise.core.records import quick


def test_a_quick_record_is_frozen_equal_and_replaceable() -> None:
    """Equality, hash, repr, replace, copy and pickle work; assignment does not."""
    usage = Usage(input_tokens=1, output_tokens=2)
    assert type(usage) is Usage
    assert usage == Usage(input_tokens=1, output_tokens=2) != Usage(input_tokens=1)
    assert hash(usage) == hash(copy.copy(usage))
    assert pickle.loads(pickle.dumps(usage)) == usage  # noqa: S301
    assert dataclasses.replace(usage, output_tokens=3).output_tokens == 3
    assert repr(Usage(input_tokens=7)).startswith("Usage(input_tokens=7, output_tokens=None")
    with pytest.raises(dataclasses.FrozenInstanceError):
        usage.input_tokens = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        Usage(unknown=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Request(provider="p", model="m")  # type: ignore[call-arg]


def test_every_field_arrives_where_it_belongs() -> None:
    """A record with required and optional fields keeps each."""
    request = Request(operation="chat", provider="openai", model="m", seed=4)
    call = Call(
        request=request, context=TaskContext(), answer=Answer(), outcome="success", candidate="m", epoch="e",
        started_at_ns=1, duration_s=0.5, retries=2,
    )  # fmt: skip
    assert (call.request.seed, call.retries, call.duration_s, call.cost, call.arm) == (4, 2, 0.5, None, "pinned")


def test_default_factories_are_refused() -> None:
    """A class that would share a mutable default is refused when it is defined."""

    @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
    class Wrong:
        names: list[str] = dataclasses.field(default_factory=list)

    with pytest.raises(TypeError, match="default factories"):
        quick(Wrong)


def test_what_a_maker_makes_is_what_the_class_makes() -> None:
    """By position and by name, with defaults left out or given, the objects are equal and as frozen as any."""
    assert make_usage(1, 2) == Usage(input_tokens=1, output_tokens=2) == make_usage(output_tokens=2, input_tokens=1)
    assert type(make_usage()) is Usage
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_usage().input_tokens = 5
    with pytest.raises(TypeError):
        make_request("chat", "openai")  # a field with a default stands between: by name only
    assert make_request(operation="chat", provider="p", model="m") == Request(operation="chat", provider="p", model="m")
    names = [field.name for field in dataclasses.fields(Call)]
    values = {name: object() for name in names}
    assert make_call(*values.values()) == Call(**values)  # type: ignore[arg-type]
