"""Checks: what an application asks of an answer besides being there, and the built-in ones."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

from tierwise.core.call import CheckResult
from tierwise.core.jsonform import ABSENT, parse_or_absent
from tierwise.core.records import dataclass

if TYPE_CHECKING:
    from tierwise.core.ports import CompileSchema, ParseJson, SchemaCheck

CheckSubject = Literal["text", "value", "logprob"]
CheckFunction = Callable[[Any], bool | float | None]
"""Takes the answer's text, its parsed JSON value or its mean token log probability; returns a verdict or a score."""

_MAX_CHARS: Final = 1_000_000
"""Built-in checks look at this much of a text."""
_REGEX_CHARS: Final = 8_192
"""Patterns are searched for in this much of a long text from either end."""
_BULLETS: Final = frozenset("-*+•‣◦▪●–—")
_NUMBER: Final = re.compile(
    r"(?:(?<![0-9A-Za-z.)])[-−])?(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]{1,3}(?![0-9]))?"
    r"|(?:(?<![0-9A-Za-z.)])[-−])?(?<![0-9])\.[0-9]+"
)
_TAIL_CHARS: Final = 20_000
_GLOBAL_FLAGS: Final = re.compile(r"(?:\s*\(\?[aiLmsux]+\))+")
"""What must stand first in a pattern; compiling keeps it in `flags`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One registered check: a function of the text, the JSON value or the mean log probability, and its threshold.

    The function returns a bool, a score in [0, 1], or `None` when it has nothing to say about this answer.
    """

    name: str
    function: CheckFunction
    on: CheckSubject = "text"
    threshold: float = 1.0

    def run(
        self, text: str, parse_json: ParseJson, *, value: object = ABSENT, mean_logprob: float | None = None
    ) -> CheckResult | None:
        """Apply the check to one answer; `None` when it does not apply.

        `value` saves parsing the text again. Without any JSON value a check on the value scores 0; without log
        probabilities a check on them does not apply. Whatever the function raises comes through; a result that is no
        bool or number raises `TypeError`, a number outside [0, 1] `ValueError`.
        """
        result: Any
        if self.on == "text":
            result = self.function(text)
        elif self.on == "logprob":
            result = None if mean_logprob is None else self.function(mean_logprob)
        else:
            if value is ABSENT:
                value = parse_or_absent(text, parse_json)
                if value is ABSENT:
                    return CheckResult(name=self.name, score=0.0, passed=False)
            result = self.function(value)
        if result is None:
            return None
        if isinstance(result, str | bytes | bytearray) or not hasattr(result, "__float__"):
            msg = f"check {self.name!r} returned {type(result).__name__}: return a bool or a score in [0, 1]"
            raise TypeError(msg)
        if not 0 <= result <= 1:
            msg = f"check {self.name!r} returned {result!r:.40}: return a bool or a score in [0, 1]"
            raise ValueError(msg)
        score = float(result)
        return CheckResult(name=self.name, score=score, passed=score >= self.threshold)


def make_check(
    function: CheckFunction, *, name: str | None = None, on: CheckSubject | None = None, threshold: float = 1.0
) -> Check:
    """A `Check` of a function; built-in functions know what they look at and bring their own names."""
    if not 0.0 <= threshold <= 1.0:
        msg = f"check threshold {threshold!r} is outside [0, 1]"
        raise ValueError(msg)
    subject: Any = on or getattr(function, "tierwise_on", "text")
    if subject not in ("text", "value", "logprob"):
        msg = f"check subject {subject!r} is unknown: use 'text', 'value' or 'logprob'"
        raise ValueError(msg)
    label = name or getattr(function, "__name__", None) or type(function).__name__
    return Check(name=label, function=function, on=subject, threshold=threshold)


def _builtin(function: CheckFunction, name: str, on: CheckSubject = "text") -> CheckFunction:
    function.__name__ = name
    function.tierwise_on = on  # type: ignore[attr-defined]
    return function


def _at_least(least: int, value: int, what: str) -> None:
    if value < least:
        msg = f"{what} is {value}: pass {least} or more"
        raise ValueError(msg)


def bullets(count: int) -> CheckFunction:
    """The text has exactly `count` list items at its outermost level (dashes, stars, dots or numbers).

    Raises `ValueError` for a negative count.
    """
    _at_least(0, count, "bullets() count")

    def check(text: str) -> bool:
        indents = [indent for line in _prose_lines(text) if (indent := _item_indent(line)) is not None]
        outermost = min(indents, default=0) + 2
        return sum(indent < outermost for indent in indents) == count

    return _builtin(check, f"bullets({count})")


def _prose_lines(text: str) -> list[str]:
    """The lines outside of code fences."""
    lines: list[str] = []
    fence = ""
    for line in text[:_MAX_CHARS].split("\n"):
        start = line.strip()[:3]
        if start in ("```", "~~~") and (not fence or start == fence):
            fence = "" if fence else start
        elif not fence:
            lines.append(line)
    return lines


def _item_indent(line: str) -> int | None:
    """How far a list item is indented, in columns; `None` for any other line."""
    line = line.rstrip().expandtabs(4)
    body = line.lstrip(" ")
    indent = len(line) - len(body)
    if not body:
        return None
    if body[0] in _BULLETS:
        marker = 1
    else:
        digits = len(body) - len(body.lstrip("0123456789"))
        if not 0 < digits <= 3 or body[digits : digits + 1] not in (".", ")"):
            return None
        marker = digits + 1
    rest = body[marker:]
    if not rest.startswith(" ") or not rest.strip(" -*_"):
        return None
    return indent


def markdown_table(*, columns: int | Sequence[str] | None = None, min_rows: int = 1) -> CheckFunction:
    """The text holds a Markdown table with a header, `min_rows` rows or more, and these columns.

    `columns` is a number, or the header's names in order (case is ignored); every row has as many cells as the header.
    Raises `ValueError` for no columns or a negative number of rows.
    """
    names = None if columns is None or isinstance(columns, int) else [str(name).strip().casefold() for name in columns]
    width = columns if isinstance(columns, int) else None if names is None else len(names)

    if width is not None:
        _at_least(1, width, "markdown_table() columns")
    _at_least(0, min_rows, "markdown_table() min_rows")

    def check(text: str) -> bool:
        lines = _table_lines(text)
        index = 1
        while index < len(lines):
            header = lines[index - 1]
            if _is_delimiter(lines[index]) and _header_holds(header, lines[index], width, names):
                rows, whole = _rows(lines, index + 1, len(header))
                if whole and rows >= min_rows:
                    return True
                index += rows  # each row is read once, whatever it looks like
            index += 1
        return False

    label = "" if columns is None else str(columns) if isinstance(columns, int) else ",".join(str(c) for c in columns)
    return _builtin(check, f"markdown_table({label})")


def _table_lines(text: str) -> list[list[str]]:
    return [_cells(line) for line in _prose_lines(text)]


def _header_holds(header: list[str], delimiter: list[str], width: int | None, names: list[str] | None) -> bool:
    if not header or len(delimiter) != len(header) or (width is not None and len(header) != width):
        return False
    return names is None or [cell.strip("*_ `").casefold() for cell in header] == names


def _rows(lines: list[list[str]], start: int, width: int) -> tuple[int, bool]:
    """How many rows of this width follow, and whether the table ends with them (not with a row of another width)."""
    for index in range(start, len(lines)):
        if len(lines[index]) != width:
            return index - start, not lines[index]
    return len(lines) - start, True


def _cells(line: str) -> list[str]:
    """The cells of a table row; none for a line without a pipe."""
    line = line.strip().replace("\\|", "\0")
    if "|" not in line:
        return []
    return [cell.strip().replace("\0", "|") for cell in line.removeprefix("|").removesuffix("|").split("|")]


def _is_delimiter(cells: list[str]) -> bool:
    return bool(cells) and all(
        "-" in cell and not cell.removeprefix(":").removesuffix(":").strip("-") for cell in cells
    )


def contains(wanted: str | Sequence[str], *, ignore_case: bool = False) -> CheckFunction:
    """The share of the wanted texts that occur in the answer: 1.0 when all do."""
    texts = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    if not texts:
        msg = "contains() needs at least one text to look for"
        raise ValueError(msg)
    needles = tuple(text.casefold() for text in texts) if ignore_case else texts

    def check(text: str) -> float:
        haystack = text[:_MAX_CHARS]
        if ignore_case:
            haystack = haystack.casefold()
        return sum(needle in haystack for needle in needles) / len(needles)

    return _builtin(check, "contains")


def regex(pattern: str | re.Pattern[str]) -> CheckFunction:
    """The pattern is found; one that does not compile raises `ValueError` at once.

    Of a text longer than 16,384 characters the first and last 8,192 are searched, since ordinary patterns (`[0-9]+$`)
    can cost the square of the length; a match must lie inside of either. The pattern is the application's own: one that
    backtracks exponentially, such as `(a+)+$`, is not saved by that.
    """
    try:
        compiled = re.compile(pattern)
        inside = _before_the_end(compiled)
    except re.error as error:
        msg = f"regex check: {pattern!r} is not a regular expression: {error}"
        raise ValueError(msg) from error

    def check(text: str) -> bool:
        if len(text) <= 2 * _REGEX_CHARS:
            return compiled.search(text) is not None
        if inside.search(text, 0, _REGEX_CHARS) is not None:
            return True
        # From a position inside, `^` still means the start of the text.
        return compiled.search(text, len(text) - _REGEX_CHARS) is not None

    return _builtin(check, "regex")


def _before_the_end(compiled: re.Pattern[str]) -> re.Pattern[str]:
    """The same pattern, but two characters or more follow: where a text is cut, its `$` does not match.

    Two, as `$` also matches before a last line break.
    """
    flags = _GLOBAL_FLAGS.match(compiled.pattern)
    start = flags.end() if flags else 0
    # The line break ends a comment of a verbose pattern.
    close = "\n)" if compiled.flags & re.VERBOSE else ")"
    try:
        return re.compile(f"(?:{compiled.pattern[start:]}{close}(?=(?s:..))", compiled.flags)
    except re.error:  # flags behind a comment: better a `$` that matches at the cut than no check
        return compiled


def json_schema(
    schema: Mapping[str, object] | SchemaCheck, *, compile_schema: CompileSchema | None = None
) -> CheckFunction:
    """The answer's JSON value holds the schema: a compiled check, or a JSON Schema and what compiles it."""
    if isinstance(schema, Mapping):
        if compile_schema is None:
            msg = (
                "json_schema() was given a schema and nothing to compile it with: "
                "pass compile_schema=, tierwise.instrument.parsing has one"
            )
            raise ValueError(msg)
        holds = compile_schema(schema)
    else:
        holds = schema

    # A function of its own: a check compiled once may be shared, and a label is set on it.
    def check(value: object) -> bool:
        return holds(value)

    return _builtin(check, "json_schema", "value")


def max_chars(count: int) -> CheckFunction:
    """The text has at most `count` characters. Raises `ValueError` for a negative count."""
    _at_least(0, count, "max_chars() count")
    return _builtin(lambda text: len(text) <= count, f"max_chars({count})")


def equals_number(expected: float, *, tolerance: float = 1e-9) -> CheckFunction:
    """The last number in the text is `expected`, give or take `tolerance`: "6 minutes", "$9.90", "1,234.5".

    Commas group thousands, a dot is the decimal point; the number is looked for in the last 20,000 characters.
    Raises `ValueError` for a number that is not finite or a tolerance below 0.
    """
    if not (math.isfinite(expected) and 0 <= tolerance < math.inf):
        msg = f"equals_number() was given {expected!r} and tolerance {tolerance!r}: pass finite numbers, tolerance >= 0"
        raise ValueError(msg)

    def check(text: str) -> bool:
        number = final_number(text)
        return number is not None and abs(number - expected) <= tolerance

    return _builtin(check, f"equals_number({expected:g})")


def final_number(text: str) -> float | None:
    """The last number in a text; `None` when there is none, or when it is too large for a float."""
    last: str | None = None
    for match in _NUMBER.finditer(text[-_TAIL_CHARS:]):
        last = match.group()
    if last is None:
        return None
    number = float(last.replace(",", "").replace("−", "-"))
    return number if math.isfinite(number) else None


def min_confidence(*, field: str | None = None, logprob: float | None = None) -> CheckFunction:
    """How sure the model says it is, or how sure its tokens are. Exactly one of both is given.

    `field` names a number in [0, 1] in the JSON value (dots go into objects); the number is the score, and the check's
    threshold decides; a missing or odd value scores 0. `logprob` is the least mean log probability of the answer's
    tokens (0 or below), where the response has log probabilities; without them the check does not apply. Raises
    `ValueError` for anything else.
    """
    if (field is None) == (logprob is None):
        msg = "min_confidence() takes either field= or logprob="
        raise ValueError(msg)
    if logprob is not None:
        if not logprob <= 0:
            msg = f"min_confidence(logprob={logprob!r}): log probabilities are 0 or below, -0.5 for example"
            raise ValueError(msg)
        least = logprob
        return _builtin(lambda mean: mean >= least, "min_confidence(logprob)", "logprob")
    path = (field or "").split(".")
    if not all(path):
        msg = f"min_confidence(field={field!r}) names no field: write 'confidence' or 'meta.confidence'"
        raise ValueError(msg)

    def check(value: object) -> float:
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            return 0.0
        return float(value)

    return _builtin(check, f"min_confidence({field})", "value")
