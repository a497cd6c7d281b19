"""Numbers and names as people read them: money, seconds, percentages, times, and text of unknown origin made harmless."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

ABSENT: Final = "–"
LONGEST_NAME: Final = 120
_HARMLESS_CONTROLS: Final = frozenset("\n\t")


def clean(text: object, *, longest: int = LONGEST_NAME) -> str:
    """Text that can be shown anywhere: control and format characters and lone surrogates become U+FFFD, length bounded.

    Joiners (which emoji need) stay; escaping for HTML is the template's work.
    """
    words = str(text)
    if len(words) > longest:
        words = words[: longest - 1] + "…"
    return "".join(_safe(character) for character in words)


def _safe(character: str) -> str:
    if character in _HARMLESS_CONTROLS:
        return " "
    if character in "\u200d\u200c":
        return character
    return "\ufffd" if unicodedata.category(character) in ("Cc", "Cf", "Cs") else character


def money_decimals(values: Iterable[float | None], *, digits: int = 2) -> int:
    """Decimals with which every one of the USD amounts shows so many significant digits at least: 2 to 8."""
    smallest = min((abs(value) for value in values if value and math.isfinite(value)), default=1.0)
    return min(8, max(2, digits - 1 - math.floor(math.log10(smallest))))


def money(value: float | None, *, decimals: int | None = None) -> str:
    """A USD amount such as `$1,234.50` or `$0.00042`; an infinite one is `∞`, an unknown one a dash."""
    if value is None:
        return ABSENT
    if math.isinf(value):
        return "∞"
    places = money_decimals([value]) if decimals is None else decimals
    return f"{'−' if value < 0 and round(value, places) else ''}${abs(value):,.{places}f}"


def seconds_decimals(values: Iterable[float | None]) -> int:
    """Decimals for a set of durations in seconds: 3 where the smallest is below 0.5 s, else 2."""
    return 3 if min((value for value in values if value is not None), default=1.0) < 0.5 else 2


def seconds(value: float | None, *, decimals: int | None = None) -> str:
    """A duration such as `5.65 s`."""
    if value is None:
        return ABSENT
    if math.isinf(value):
        return "∞"
    return f"{value:.{seconds_decimals([value]) if decimals is None else decimals}f}\u00a0s"


def percent(value: float | None, *, decimals: int = 1) -> str:
    """A fraction in [0, 1] as `97.5 %`; whole numbers without decimals."""
    if value is None:
        return ABSENT
    text = f"{100 * value:.{decimals}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + "\u00a0%"


def count(value: float | None) -> str:
    """A count with thousands separators; averages are rounded."""
    return ABSENT if value is None else f"{value:,.0f}"


def utc(moment_s: float) -> str:
    """A Unix time in seconds as `23 November 2026, 14:05 UTC`."""
    try:
        when = datetime.fromtimestamp(moment_s, tz=UTC)
    except (OverflowError, OSError, ValueError):
        return ABSENT
    return f"{when.day} {when:%B %Y, %H:%M} UTC"


def window(first_s: float, last_s: float) -> str:
    """The stretch between two Unix times in seconds, with the day said once where both are on it."""
    first, last = utc(first_s), utc(last_s)
    if first == last:
        return first
    day, _, time = first.partition(", ")
    if last.startswith(day):
        return f"{day}, {time.removesuffix(' UTC')} to {last.partition(', ')[2]}"
    return f"{first} to {last}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """`1 run`, `2,000 runs`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(names: Iterable[str], *, longest: int = 4) -> str:
    """Names as `a, b and c`, the rest beyond `longest` as a number."""
    shown = list(names)
    if len(shown) > longest:
        shown = [*shown[: longest - 1], f"{len(shown) - longest + 1} others"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}" if shown else ""
