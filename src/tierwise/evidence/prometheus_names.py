"""What our metrics and attributes are called in a Prometheus-compatible server, after each way of translating OTLP names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from tierwise.core.records import dataclass

_UNITS: Final = {"s": "seconds"}
_PLAIN: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")
_UNSAFE: Final = re.compile(r"[^a-zA-Z0-9_:]")
_SPECIAL: Final = re.compile(r"[\\.+*?()|\[\]{}^$]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """One metric as OTLP knows it; the unit is UCUM."""

    name: str
    kind: str
    """`counter`, `histogram` or `gauge`."""
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The metrics that evidence is made of, and the attributes on them, under their OTLP names.

    `metrics` and `attributes` are by role; `METRIC_ROLES` and `ATTRIBUTE_ROLES` say which there are.
    """

    metrics: Mapping[str, Instrument]
    attributes: Mapping[str, str]


METRIC_ROLES: Final = (
    "calls", "priced", "cost", "cost_squared", "retries", "retried", "tokens", "check_score", "check_count", "feedback",
    "runs", "runs_escalated", "runs_priced", "runs_cost", "runs_cost_squared", "duration", "first_chunk",
)  # fmt: skip
ATTRIBUTE_ROLES: Final = (
    "task", "candidate", "epoch", "arm", "rung", "grade", "outcome", "json_form", "member", "token_kind", "accepted",
    "run_success",
)  # fmt: skip
LATENCY_ROLES: Final = ("duration", "first_chunk")
RECORDED_ROLES: Final = ("unpriced", "runs_unpriced")
"""What recording rules have in the place of `priced` and `runs_priced`: mostly nothing, which is read for nothing."""
RECORDED_PREFIX: Final = "tierwise:"
RECORDED_SUFFIX: Final = ":hour"
HEARTBEAT: Final = "tierwise:evidence:hour"
"""There for each hour that the recording rules have summed and in which no counter began anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """One way of translating names: what metrics and attributes are called on a server."""

    strategy: str
    metrics: Mapping[str, str]
    """By role; histograms without `_bucket`, `_count` and `_sum`."""
    labels: Mapping[str, str]
    """By role."""


def namings(names: Names) -> tuple[Naming, ...]:
    """Every way in which servers translate OTLP names, the usual one first.

    Prometheus' four translation strategies; VictoriaMetrics writes the first with `-opentelemetry.usePrometheusNaming`
    and the last without it.
    """
    made = []
    for strategy, escape, suffix in (
        ("UnderscoreEscapingWithSuffixes", True, True),
        ("UnderscoreEscapingWithoutSuffixes", True, False),
        ("NoUTF8EscapingWithSuffixes", False, True),
        ("NoTranslation", False, False),
    ):
        metrics = {role: metric_name(one, escape=escape, suffix=suffix) for role, one in names.metrics.items()}
        labels = {role: escaped(name) if escape else name for role, name in names.attributes.items()}
        made.append(Naming(strategy=strategy, metrics=metrics, labels=labels))
    return tuple(made)


def metric_name(instrument: Instrument, *, escape: bool = True, suffix: bool = True) -> str:
    """A metric's name; with suffixes the unit in words and `_total` are appended, units in braces are not."""
    name = instrument.name
    if suffix:
        unit = _UNITS.get(instrument.unit)
        if unit and not name.endswith(unit):
            name = f"{name}_{unit}"
        if instrument.kind == "counter":
            name = f"{name.removesuffix('_total')}_total"
        elif instrument.kind == "gauge" and instrument.unit == "1":
            name = f"{name}_ratio"
    return escaped(name) if escape else name


def escaped(name: str) -> str:
    """A name in which everything but letters, digits and underscores has become an underscore."""
    return _UNSAFE.sub("_", name)


def quoted(text: str) -> str:
    """A PromQL string. Everything that could end it or begin an escape is escaped."""
    out = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return '"' + out.encode("utf-8", "replace").decode("utf-8") + '"'


def any_of(values: Iterable[str]) -> str:
    """A PromQL string with a regular expression (RE2) that matches exactly these values."""
    return quoted("|".join(_SPECIAL.sub(r"\\\g<0>", value) for value in values))


def label(name: str) -> str:
    """A label's name in a selector, quoted where it is not a plain word (Prometheus 3, VictoriaMetrics)."""
    return name if _PLAIN.match(name) else quoted(name)


def selector(matchers: Iterable[tuple[str, str, str]]) -> str:
    """`{a="x","b.c"=~"y|z"}` from (label, operator, PromQL string)."""
    return "{" + ",".join(f"{label(name)}{operator}{value}" for name, operator, value in matchers) + "}"
