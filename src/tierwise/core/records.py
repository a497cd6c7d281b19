"""Frozen dataclasses that are cheap to make: what is made on every call must not pay for being immutable."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar, cast

T = TypeVar("T")


def quick(cls: type[T]) -> type[T]:
    """Give a frozen, slotted, keyword-only dataclass a faster `__init__`; everything else stays as it is.

    The generated `__init__` of a frozen dataclass calls `object.__setattr__` once a field, about 800 CPU instructions
    each. Here a new object is, while its fields are set by plain assignment, of a twin class with the same slots that is
    not frozen. Raises `TypeError` for a class of another shape or with default factories.
    """
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    if any(field.default_factory is not dataclasses.MISSING or not field.kw_only or not field.init for field in fields):
        raise TypeError(f"{cls.__name__}: only keyword-only fields without default factories can be made quickly")
    made = _function(cls, "__init__", ("self", "*"), (' _set(self, "__class__", _twin)',), ())
    made.__annotations__ = getattr(cls.__init__, "__annotations__", {})
    cls.__init__ = made  # type: ignore[method-assign]
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
