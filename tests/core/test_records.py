"""Quick records behave as the frozen dataclasses they are."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest

from tierwise.core.call import Answer, Call, Request, TaskContext, Usage, make_call, make_request, make_usage
from tierwise.core.records import dataclass, quick


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


def test_a_record_is_a_dataclass_in_all_that_matters() -> None:
    """Defaults, factories, positions, equality, order, hash, repr, replace, pickle and refusals are those of dataclasses."""
    for decorate in (dataclass, dataclasses.dataclass):

        @decorate(frozen=True, slots=True, order=True)
        class Point:
            x: int
            y: int = 2
            names: tuple[str, ...] = dataclasses.field(default_factory=lambda: ("a",), compare=False, repr=False)
            made: list[int] = dataclasses.field(default_factory=list, init=False, compare=False)

        one = Point(1)
        assert one == Point(1, 2, ("b",)) != Point(1, 3)
        assert (one < Point(2), one <= Point(1), one > Point(0), one >= Point(2)) == (True, True, True, False)
        assert hash(one) == hash(Point(1, names=()))
        assert repr(one).endswith("Point(x=1, y=2, made=[])")
        assert one.made is not Point(1).made
        assert dataclasses.replace(one, y=5).y == 5
        assert dataclasses.asdict(one)["names"] == ("a",)
        assert copy.deepcopy(one) == one
        assert one.__eq__(object()) is NotImplemented
        for change in (lambda one: setattr(one, "x", 3), lambda one: delattr(one, "x")):
            with pytest.raises(dataclasses.FrozenInstanceError):
                change(one)
        with pytest.raises(TypeError):
            Point()  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            one < 3  # type: ignore[operator]  # noqa: B015


def test_a_record_that_is_not_frozen_can_change() -> None:
    """Plain slotted records take assignments, have no hash and no other attributes."""

    @dataclass(slots=True, kw_only=True)
    class Sum:
        n: int = 0

    one = Sum(n=3)
    one.n += 1
    assert one == Sum(n=4)
    with pytest.raises(TypeError, match="unhashable"):
        hash(one)
    with pytest.raises(AttributeError):
        one.other = 1  # type: ignore[attr-defined]
