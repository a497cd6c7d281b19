"""Frozen dataclasses that are cheap to make: what is made on every call must not pay for being immutable."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar, cast

__all__ = ["dataclass", "maker", "quick"]

T = TypeVar("T")

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(*, frozen=False, slots=False, kw_only=False, order=False):
        """As `dataclasses.dataclass`, made in a third of the time, which counts when an application starts.

        The original compiles half a dozen functions for each class. Here all classes share theirs, and the constructor,
        which cannot be shared, is compiled when the first object is made.
        """

        def decorate(cls):
            made = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots, kw_only=kw_only)(cls)
            fields = dataclasses.fields(made)
            made.__init__ = _lazily(made, lambda: _constructor(made, frozen=frozen))
            made._values_of = attrgetter(*(field.name for field in fields if field.compare)) if fields else _nothing
            made.__eq__, made.__repr__, made.__hash__ = _equal, _text, (_hash if frozen else None)
            if frozen:
                made.__setattr__, made.__delattr__ = _refuse_assignment, _refuse_deletion
                made._names_of = tuple(field.name for field in fields)
                made.__getstate__, made.__setstate__ = _state, _restore
            if order:
                made.__lt__, made.__le__, made.__gt__, made.__ge__ = _less, _less_or_equal, _greater, _greater_or_equal
            return made

        return decorate


def quick(cls: type[T]) -> type[T]:
    """Give a frozen, slotted, keyword-only dataclass a faster `__init__`; everything else stays as it is.

    The generated `__init__` of a frozen dataclass calls `object.__setattr__` once a field, about 800 CPU instructions
    each. Here a new object is, while its fields are set by plain assignment, of a twin class with the same slots that is
    not frozen. Raises `TypeError` for a class of another shape or with default factories.
    """
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    if any(field.default_factory is not dataclasses.MISSING or not field.kw_only or not field.init for field in fields):
        raise TypeError(f"{cls.__name__}: only keyword-only fields without default factories can be made quickly")
    before = (' _set(self, "__class__", _twin)',)
    cls.__init__ = _lazily(cls, lambda: _function(cls, "__init__", ("self", "*"), before, ()))  # type: ignore[method-assign]
    return cls


def maker(cls: type[T]) -> Callable[..., T]:
    """A function that makes objects of a `quick` class for a fraction of what calling the class costs.

    Calling a class packs its arguments into a tuple and a dictionary and unpacks them again, and each keyword is looked
    for among all parameters. What is returned here is a plain function that takes the fields by position as well, in
    their order, where that order allows it (none without a default after one with).
    """
    required = [field.default is dataclasses.MISSING for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    by_position = required == sorted(required, reverse=True)
    made = _function(cls, "make", () if by_position else ("*",), (" self = _new(_twin)",), (" return self",))
    return cast("Callable[..., T]", made)


def _function(cls: type, name: str, first: tuple[str, ...], before: tuple[str, ...], after: tuple[str, ...]) -> Any:
    """A function with the class's fields as keyword-only parameters that sets each of them on `self`."""
    slots: tuple[str, ...] = cls.__slots__  # type: ignore[attr-defined]
    twin = type(cls.__name__, (cls.__base__ or object,), {"__slots__": slots})
    namespace: dict[str, Any] = {"_set": object.__setattr__, "_new": object.__new__, "_twin": twin, "_class": cls}
    parameters, assignments = [*first], []
    for field in dataclasses.fields(cls):
        if field.default is dataclasses.MISSING:
            parameters.append(field.name)
        else:
            namespace[f"_default_{field.name}"] = field.default
            parameters.append(f"{field.name}=_default_{field.name}")
        assignments.append(f" self.{field.name} = {field.name}")
    lines = [f"def {name}({', '.join(parameters)}):", *before, *assignments, " self.__class__ = _class"]
    if hasattr(cls, "__post_init__"):
        lines.append(" self.__post_init__()")
    exec("\n".join((*lines, *after)), namespace)  # noqa: S102 - field names only, as dataclasses does it
    made = namespace[name]
    made.__qualname__ = f"{cls.__qualname__}.{name}"
    return made


def _lazily(cls: type, make: Callable[[], Any]) -> Any:
    """A constructor that is compiled when it is first called, and replaces itself then."""

    def __init__(self: Any, *args: Any, **values: Any) -> None:  # noqa: N807
        cls.__init__ = make()  # type: ignore[misc]
        self.__init__(*args, **values)

    return __init__


def _constructor(cls: type, *, frozen: bool) -> Any:
    """`__init__` of a dataclass: every field set, by default or as given."""
    namespace: dict[str, Any] = {"_set": object.__setattr__, "_factory": object()}
    by_position: list[str] = []
    by_name: list[str] = []
    lines: list[str] = []
    for field in dataclasses.fields(cls):
        name = value = field.name
        parameter = name
        if field.default is not dataclasses.MISSING:
            namespace[f"_default_{name}"] = field.default
            parameter = f"{name}=_default_{name}"
        elif field.default_factory is not dataclasses.MISSING:
            namespace[f"_factory_{name}"] = field.default_factory
            parameter = f"{name}=_factory"
            value = f"_factory_{name}() if {name} is _factory else {name}"
        if field.init:
            (by_name if field.kw_only else by_position).append(parameter)
        elif field.default_factory is not dataclasses.MISSING:
            value = f"_factory_{name}()"
        else:
            value = f"_default_{name}"
        lines.append(f' _set(self, "{name}", {value})' if frozen else f" self.{name} = {value}")
    if hasattr(cls, "__post_init__"):
        lines.append(" self.__post_init__()")
    parameters = ["self", *by_position, *(("*", *by_name) if by_name else ())]
    exec("\n".join((f"def __init__({', '.join(parameters)}):", *lines, " return None")), namespace)  # noqa: S102 - field names only, as dataclasses does it
    made = namespace["__init__"]
    made.__qualname__ = f"{cls.__qualname__}.__init__"
    return made


def _nothing(_: object) -> tuple[()]:
    return ()


def _equal(self: Any, other: Any) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    values = self.__class__._values_of
    return values(self) == values(other)


def _hash(self: Any) -> int:
    return hash(self.__class__._values_of(self))


def _text(self: Any) -> str:
    shown = (f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self) if field.repr)
    return f"{self.__class__.__qualname__}({', '.join(shown)})"


def _refuse_assignment(_self: Any, name: str, _value: object) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _refuse_deletion(_self: Any, name: str) -> None:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")


def _state(self: Any) -> list[Any]:
    return [getattr(self, name) for name in self._names_of]


def _restore(self: Any, state: list[Any]) -> None:
    put = object.__setattr__
    for name, value in zip(self._names_of, state, strict=True):
        put(self, name, value)


def _less(self: Any, other: Any) -> Any:
    values = self.__class__._values_of
    return values(self) < values(other) if other.__class__ is self.__class__ else NotImplemented


def _less_or_equal(self: Any, other: Any) -> Any:
    values = self.__class__._values_of
    return values(self) <= values(other) if other.__class__ is self.__class__ else NotImplemented


def _greater(self: Any, other: Any) -> Any:
    values = self.__class__._values_of
    return values(self) > values(other) if other.__class__ is self.__class__ else NotImplemented


def _greater_or_equal(self: Any, other: Any) -> Any:
    values = self.__class__._values_of
    return values(self) >= values(other) if other.__class__ is self.__class__ else NotImplemented
