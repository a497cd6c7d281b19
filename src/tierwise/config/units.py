"""Reading the texts of a policy: shares (`5%`), durations (`12h`) and limits (`<= 10s`). Errors are `ValueError`."""

from __future__ import annotations

import math
import re
from typing import Final, Literal

from tierwise.core.records import dataclass

_NUMBER: Final = r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE]([-+]?[0-9]{1,3}))?"
_PERCENT: Final = re.compile(rf"{_NUMBER}\s*%")
_DURATION: Final = re.compile(rf"{_NUMBER}\s*(ms|s|m|min|h|d|w)")
_LIMIT: Final = re.compile(rf"(>=|<=|≥|≤|=>|=<|>|<|==|=)?\s*(\$)?\s*{_NUMBER}\s*(%|ms|s|min|m|h|USD)?")

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}

RATE_METRICS: Final = frozenset({
    "success_rate", "json_valid_rate", "json_fenced_rate", "format_rate", "truncation_rate", "empty_rate", "error_rate",
    "refusal_rate", "retry_rate", "escalation_rate", "acceptance_rate", "check_score",
})  # fmt: skip
TIME_METRICS: Final = frozenset({"latency_p50", "latency_p95", "latency_p99", "ttft_p50", "ttft_p95"})
MONEY_METRICS: Final = frozenset({"cost_per_call", "cost_per_success"})
HIGHER_IS_BETTER: Final = frozenset({
    "success_rate", "json_valid_rate", "format_rate", "acceptance_rate", "check_score",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A guardrail's text as read: operator, number and unit (`""`, `%`, `s`, `$`); seconds and USD already applied."""

    op: Literal[">=", "<="]
    value: float
    unit: Literal["", "%", "s", "$"]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _float(mantissa: str, exponent: str | None) -> float:
    return float(f"{mantissa}e{exponent}") if exponent else float(mantissa)


def share(value: object) -> float:
    """A share in [0, 1] from `5%` or `0.05`."""
    if isinstance(value, str) and (match := _PERCENT.fullmatch(value.strip())):
        result = _float(match[1], match[2]) / 100
    elif _is_number(value):
        result = float(value)  # type: ignore[arg-type]
    else:
        raise ValueError(f"{value!r} is not a share; write 5% or 0.05")
    if not 0 <= result <= 1:
        hint = f"; did you mean {result:g}%?" if 1 < result <= 100 and not isinstance(value, str) else ""
        raise ValueError(f"{value} is outside 0 to 100 %{hint or '; write 5% or 0.05'}")
    return result


def duration_s(value: object) -> float:
    """Seconds from `12h`, `30m`, `45s`, `500ms`, `2d`, `1w`, or a bare number of seconds; not negative."""
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        result = _float(match[1], match[2]) * _SECONDS[match[3]]
    elif _is_number(value):
        result = float(value)  # type: ignore[arg-type]
    else:
        raise ValueError(f"{value!r} is not a duration; write 12h, 30m, 45s or 500ms")
    if not (0 <= result < math.inf):
        raise ValueError(f"{value} is not a duration; it must be 0 or more")
    return result


def explore(value: object) -> float | Literal["adaptive"]:
    """`adaptive`, or the challengers' largest share of the traffic."""
    if value == "adaptive":
        return "adaptive"
    try:
        return share(value)
    except ValueError as error:
        raise ValueError(f"{error} (or adaptive)") from None


def limit(value: object) -> Limit:
    """A guardrail's limit: `>= 0.95`, `<= 1%`, `<= 10s`, `<= 500ms`, `<= $0.02`."""
    form = "write it like '>= 0.95', '<= 1%', '<= 10s' or '<= $0.02'"
    if _is_number(value):
        raise ValueError(f"{value} has no direction; write '>= {value}' or '<= {value}'")
    match = _LIMIT.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a limit; {form}")
    op, dollar, mantissa, exponent, unit = match.groups()
    signs: dict[str, Literal[">=", "<="]] = {">=": ">=", "<=": "<=", "≥": ">=", "≤": "<="}
    sign = signs.get(op or "")
    if sign is None:
        wanted = ">=" if op in (">", "=>") else "<=" if op in ("<", "=<") else None
        advice = f"use '{wanted}'" if wanted else "use '>=' or '<='"
        raise ValueError(f"{value!r}: a limit is one of '>=' and '<='; {advice}")
    if dollar and unit not in (None, "USD"):
        raise ValueError(f"{value!r} mixes units; {form}")
    number = _float(mantissa, exponent)
    if dollar or unit == "USD":
        return Limit(op=sign, value=number, unit="$")
    if unit == "%":
        return Limit(op=sign, value=number / 100, unit="%")
    if unit is not None:
        return Limit(op=sign, value=number * _SECONDS[unit], unit="s")
    return Limit(op=sign, value=number, unit="")


def fits(metric: str, bound: Limit) -> str | None:
    """What is wrong with this limit for this metric, in words; `None` when it fits."""
    allowed: tuple[str, ...]
    if metric in RATE_METRICS:
        allowed, example = ("", "%"), "0.95 or 95%"
    elif metric in TIME_METRICS:
        allowed, example = ("", "s"), "10s or 500ms"
    elif metric in MONEY_METRICS:
        allowed, example = ("", "$"), "$0.02"
    else:
        allowed, example = ("",), "800"
    if bound.unit not in allowed:
        return f"{metric} is not measured in that unit; write a limit like {example}"
    if metric in RATE_METRICS and not 0 <= bound.value <= 1:
        hint = f"did you mean {bound.value:g}%?" if bound.unit == "" and bound.value <= 100 else f"like {example}"
        return f"{metric} lies between 0 and 1; {hint}"
    if metric not in RATE_METRICS and bound.value <= 0:
        return f"{metric} is always above 0; give a limit above 0"
    return None
