"""What tierwise's metrics and attributes are called in Prometheus: the one place where their names are translated."""

from __future__ import annotations

from typing import Final

from tierwise.evidence.prometheus_names import Instrument, escaped, metric_name
from tierwise.telemetry import semconv as sc


def metric(one: sc.Metric) -> str:
    """The name of a metric, with the suffixes for its unit and kind; histograms without `_bucket`, `_count`, `_sum`.

    As Prometheus' `UnderscoreEscapingWithSuffixes` and VictoriaMetrics' `-opentelemetry.usePrometheusNaming` write it.
    Raises `ValueError` for a metric that tierwise does not emit.
    """
    if one.name not in sc.METRICS:
        raise ValueError(f"{one.name} is not in telemetry/semconv.py; take metrics from there")
    return metric_name(Instrument(name=one.name, kind=one.kind, unit=one.unit))


def label(attribute: str) -> str:
    """The label that an attribute becomes. Raises `ValueError` for one that tierwise does not set."""
    if attribute not in sc.ATTRIBUTES and attribute not in RESOURCE_ATTRIBUTES:
        raise ValueError(f"{attribute} is not in telemetry/semconv.py; take attributes from there")
    return escaped(attribute)


RESOURCE_ATTRIBUTES: Final = ("service.name", "service.instance.id", "deployment.environment.name")
"""Attributes of the process that `collector/prometheus/prometheus.yml` promotes to labels."""

SERVICE: Final = label("service.name")
INSTANCE: Final = label("service.instance.id")
ENVIRONMENT: Final = label("deployment.environment.name")
TASK: Final = label(sc.TASK)
MODEL: Final = label(sc.CANDIDATE)
OUTCOME: Final = label(sc.OUTCOME)
ARM: Final = label(sc.ARM)
RUNG: Final = label(sc.RUNG)
FORM: Final = label(sc.JSON_FORM)
MEMBER: Final = label(sc.RUN_MEMBER)
RUN_SUCCESS: Final = label(sc.RUN_SUCCESS)
RUN_CLEANED: Final = label(sc.RUN_CLEANED)
ACCEPTED: Final = label(sc.FEEDBACK_ACCEPTED)
CHECK: Final = label(sc.CHECK_NAME)
KIND: Final = label(sc.TOKEN_KIND)
ROLE: Final = label(sc.ROUTE_ROLE)
VERSION: Final = label(sc.ROUTE_VERSION)
VERDICT: Final = label(sc.VERDICT)
CHALLENGER: Final = label(sc.CHALLENGER)
LOOK: Final = label(sc.LOOK_RESULT)
PLACE: Final = label(sc.WHERE)
