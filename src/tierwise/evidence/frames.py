"""Typed rows of the store as data frames of pandas or polars: each column has a type of its own, with or without rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from importlib import import_module
from operator import attrgetter
from types import UnionType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tierwise.core.call import CheckResult, Try
from tierwise.core.evidence import EvidenceRow
from tierwise.core.records import dataclass
from tierwise.evidence.rows import CallRow

if TYPE_CHECKING:
    import pandas
    import polars

Row = TypeVar("Row")
Kind = Literal["text", "whole", "number", "truth", "time", "texts", "numbers", "tries", "spread", "checks"]

_SCALARS: Final[Mapping[object, Kind]] = {str: "text", int: "whole", float: "number", bool: "truth"}
_NESTED: Final[Mapping[object, Kind]] = {str: "texts", int: "numbers", Try: "tries", CheckResult: "checks"}
_TIMES: Final = {"_at_ns": ("_at", 1), "bucket": ("bucket_start", 10**9)}
"""End of a field's name → end of the column's, and nanoseconds of its unit."""
_MONEY: Final = {
    "cost_sum": "cost_sum_usd",
    "cost_sq_sum": "cost_sq_sum_usd2",
    "cost_success_sum": "cost_success_sum_usd",
}
_LEFT_OUT: Final = ("pairs",)
_PANDAS: Final[Mapping[Kind, str]] = {"text": "string", "whole": "int64", "number": "float64", "truth": "bool"}
_NULLABLE: Final[Mapping[Kind, str]] = {"whole": "Int64", "truth": "boolean"}


class Rows(Generic[Row]):
    """Rows of the store as they are read: go through them once, or make a data frame of them."""

    __slots__ = ("_kind", "_rows")

    def __init__(self, rows: Iterator[Row], kind: type[Row]) -> None:
        self._rows, self._kind = rows, kind

    def __iter__(self) -> Iterator[Row]:
        return self

    def __next__(self) -> Row:
        return next(self._rows)

    def to_pandas(self) -> pandas.DataFrame:
        """The rows that are left as a pandas frame; see `tierwise.evidence.to_pandas`."""
        return to_pandas(self, kind=self._kind)

    def to_polars(self) -> polars.DataFrame:
        """The rows that are left as a polars frame; see `tierwise.evidence.to_polars`."""
        return to_polars(self, kind=self._kind)


def to_pandas(rows: Iterable[Any], *, kind: type | None = None) -> pandas.DataFrame:
    """Typed rows (calls, runs, feedback, evidence) as a pandas frame.

    Times are UTC (`started_at`, `bucket_start`), durations seconds, money USD, words strings; a missing number is NaN or NA.
    What has names of its own is spread: `labels.tenant`, `checks.length.passed`, `outcomes.success`. `kind` is the class of the
    rows, by default that of the first, or `CallRow`: a frame without rows has the same columns but those that are spread.

    Raises:
        ImportError: pandas is not installed.
    """
    library = _library("pandas")
    made = {}
    for name, holds, optional, values in _columns(rows, kind):
        if holds == "time":
            made[name] = library.to_datetime(library.Series(values, dtype="Int64"), unit="ns", utc=True)
        else:
            dtype = _NULLABLE[holds] if optional and holds in _NULLABLE else _PANDAS.get(holds, "object")
            made[name] = library.Series(values, dtype=dtype)
    return library.DataFrame(made)


def to_polars(rows: Iterable[Any], *, kind: type | None = None) -> polars.DataFrame:
    """Typed rows as a polars frame: the same columns as `to_pandas`; lists stay lists, and what is missing is null.

    Raises:
        ImportError: polars is not installed.
    """
    library = _library("polars")
    types = {
        "text": library.String,
        "whole": library.Int64,
        "number": library.Float64,
        "truth": library.Boolean,
        "time": library.Datetime("ns", "UTC"),
        "texts": library.List(library.String),
        "numbers": library.List(library.Int64),
        "tries": library.List(
            library.Struct(
                {
                    "number": library.Int64, "status": library.Int64, "error_type": library.String,
                    "backoff_s": library.Float64, "ended_at_ns": library.Int64,
                }
            )
        ),
    }  # fmt: skip
    made = []
    for name, holds, _, values in _columns(rows, kind):
        if holds == "time":
            made.append(library.Series(name, values, dtype=library.Int64).cast(types["time"]))
        else:
            made.append(library.Series(name, values, dtype=types[holds]))
    return library.DataFrame(made)


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ImportError(
            f"{name} is not installed, and a {name} frame needs it: pip install {name}", name=name
        ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    """One field of a row: where it is, what its column is called, and what that holds."""

    name: str
    kind: Kind
    optional: bool
    get: Callable[[Any], Any]
    unit_ns: int = 1
    whole: bool = False
    """Of a spread field: its values are counts, which are 0 where there is none."""


Column = tuple[str, Kind, bool, list[Any]]


def _columns(rows: Iterable[Any], kind: type | None) -> Iterator[Column]:
    """Name, kind, whether it may be missing, and values of each column."""
    found = list(rows)
    made = _fields_of(kind if kind is not None else type(found[0]) if found else CallRow)
    for one in made:
        values = [one.get(row) for row in found]
        if one.kind == "time":
            yield one.name, "time", one.optional, [None if value is None else value * one.unit_ns for value in values]
        elif one.kind in ("texts", "numbers"):
            yield one.name, one.kind, False, list(map(list, values))
        elif one.kind == "tries":
            yield one.name, "tries", False, [[asdict(part) for part in value] for value in values]
        elif one.kind == "spread":
            yield from _spread(one, values)
        elif one.kind == "checks":
            yield from _checks(one.name, values)
        else:
            yield one.name, one.kind, one.optional, values


def _spread(one: _Field, values: Sequence[Mapping[str, Any]]) -> Iterator[Column]:
    absent = 0 if one.whole else None
    for key in sorted(set().union(*values)):
        kind: Kind = "whole" if one.whole else "text"
        yield f"{one.name}.{key}", kind, not one.whole, [value.get(key, absent) for value in values]


def _checks(name: str, values: Sequence[Sequence[CheckResult]]) -> Iterator[Column]:
    named = [{result.name: result for result in value} for value in values]
    for key in sorted(set().union(*named)):
        results = [one.get(key) for one in named]
        yield f"{name}.{key}.score", "number", True, [None if one is None else one.score for one in results]
        yield f"{name}.{key}.passed", "truth", True, [None if one is None else one.passed for one in results]


def _fields_of(kind: type) -> list[_Field]:
    if kind is EvidenceRow:
        hints = get_type_hints(EvidenceRow)
        return [one for part in ("key", "evidence") for one in _plain_fields(hints[part], f"{part}.")]
    made = _plain_fields(kind)
    if kind is CallRow:
        made.append(_Field(name="json_valid", kind="truth", optional=True, get=attrgetter("json_valid")))
    return made


def _plain_fields(kind: type, prefix: str = "") -> list[_Field]:
    hints = get_type_hints(kind)
    return [_field(one.name, hints[one.name], prefix) for one in fields(kind) if one.name not in _LEFT_OUT]


def _field(name: str, hint: Any, prefix: str) -> _Field:
    get = attrgetter(prefix + name)
    options = [one for one in get_args(hint) if one is not type(None)] if _is_union(hint) else [hint]
    optional, (plain, *_) = len(options) < len(get_args(hint)) if _is_union(hint) else False, options
    for end, (column_end, unit_ns) in _TIMES.items():
        if name.endswith(end):
            column = name.removesuffix(end) + column_end
            return _Field(name=column, kind="time", optional=optional, get=get, unit_ns=unit_ns)
    origin, arguments = get_origin(plain), get_args(plain)
    if origin is tuple:
        return _Field(name=name, kind=_NESTED[arguments[0]], optional=False, get=get)
    if origin is not None and origin is not Literal:
        return _Field(name=name, kind="spread", optional=False, get=get, whole=arguments[1] is int)
    found: Kind = "text" if origin is Literal else _SCALARS[plain]
    return _Field(name=_MONEY.get(name, name), kind=found, optional=optional, get=get)


def _is_union(hint: object) -> bool:
    return get_origin(hint) in (Union, UnionType)
