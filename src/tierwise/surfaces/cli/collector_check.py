"""What can be known about a Collector configuration without a Collector: components, pipelines, doors, derived metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tierwise.core.errors import ConfigError
from tierwise.core.records import dataclass
from tierwise.telemetry import semconv as sc

_SECTIONS: Final = ("receivers", "processors", "exporters", "connectors", "extensions")
_TOP: Final = frozenset((*_SECTIONS, "service"))
_PARTS: Final = ("receivers", "processors", "exporters")
_SIGNALS: Final = ("traces", "metrics", "logs", "profiles")
# Without underscores, as newer and older releases differ in them; those of otelcol-contrib that such a pipeline may need.
_KNOWN: Final = {
    "receivers": {
        "otlp", "nop", "prometheus", "hostmetrics", "jaeger", "zipkin", "kafka", "filelog", "otelarrow", "opencensus",
        "prometheusremotewrite", "statsd", "k8scluster", "kubeletstats", "datadog", "awsxray", "dockerstats",
    },
    "processors": {
        "batch", "memorylimiter", "attributes", "resource", "transform", "filter", "redaction", "tailsampling",
        "deltatocumulative", "cumulativetodelta", "groupbyattrs", "groupbytrace", "interval", "k8sattributes",
        "resourcedetection", "probabilisticsampler", "span", "metricstransform", "metricsgeneration", "metricstarttime",
        "logdedup", "deltatorate", "schema", "geoip", "remotetap",
    },
    "exporters": {
        "otlp", "otlpgrpc", "otlphttp", "debug", "nop", "file", "prometheus", "prometheusremotewrite", "kafka",
        "loadbalancing", "otelarrow", "googlecloud", "googlemanagedprometheus", "datadog", "clickhouse", "elasticsearch",
        "awsxray", "awsemf", "awss3", "azuremonitor", "zipkin", "splunkhec", "coralogix", "influxdb", "opensearch",
    },
    "connectors": {
        "forward", "signaltometrics", "spanmetrics", "count", "sum", "routing", "failover", "servicegraph", "exceptions",
        "roundrobin", "datadog", "grafanacloud", "otlpjson", "metricsaslogs", "slowsql",
    },
    "extensions": {
        "healthcheck", "healthcheckv2", "filestorage", "dbstorage", "redisstorage", "bearertokenauth", "basicauth",
        "headerssetter", "oauth2client", "oidc", "pprof", "zpages", "opamp", "sigv4auth", "googleclientauth",
        "azureauth", "asapclient", "cgroupruntime", "k8sleaderelector", "jaegerremotesampling", "httpforwarder", "ack",
        "hostobserver", "dockerobserver", "k8sobserver", "ecsobserver",
    },
}  # fmt: skip
_VARIABLE: Final = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)(?::-((?:[^{}]|\{[^{}]*\})*))?\}")
_MAX_BYTES: Final = 4 << 20
_LOOPBACK: Final = re.compile(r"^(127\.|localhost[:$]|\[::1\]|unix:)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What is wrong (it would not run, or would count wrongly) and what is worth a second look."""

    errors: tuple[str, ...]
    warnings: tuple[str, ...]


def findings(file: Path, environment: Mapping[str, str]) -> Findings:
    """Check one file with these variables.

    Raises:
        ConfigError: it cannot be read, or is no YAML map.
    """
    document = _load(file, environment)
    errors = [*_sections(document), *_shapes(document), *_pipelines(document), *_derived(document)]
    return Findings(errors=tuple(errors), warnings=tuple(_doors(document)))


def _load(file: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise ConfigError(f"{file}: larger than {_MAX_BYTES >> 20} MiB")
        text = data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"{file}: cannot be read: {why}; check the path and its rights") from None
    yaml = YAML(typ="safe", pure=True)
    try:
        document = _expanded(yaml.load(text), environment, yaml)
    except (YAMLError, RecursionError) as error:
        raise ConfigError(f"{file}: not YAML: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{file}: expected a map with receivers, exporters and service")
    return document


def _expanded(value: Any, environment: Mapping[str, str], yaml: Any) -> Any:
    """The value with `${env:NAME:-default}` replaced; a scalar that is nothing else is read as YAML, as the Collector does."""
    if isinstance(value, dict):
        return {key: _expanded(item, environment, yaml) for key, item in value.items()}
    if isinstance(value, list):
        return [_expanded(item, environment, yaml) for item in value]
    if not isinstance(value, str) or "${env:" not in value:
        return value
    text = _VARIABLE.sub(lambda match: environment.get(match[1]) or match[2] or "", value)
    return yaml.load(text) if _VARIABLE.fullmatch(value) and text else text


def _kind(component: object) -> str:
    return str(component).partition("/")[0].replace("_", "")


def _map(value: object) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _names(value: object) -> list[str]:
    return [str(name) for name in _list(value)]


def _of(document: dict[str, Any], section: str) -> dict[str, Any]:
    return {str(name): value for name, value in _map(document.get(section)).items()}


def _shapes(document: dict[str, Any]) -> Iterator[str]:
    """Values that are no list or map where one belongs; the other checks take them as empty."""
    service = _map(document.get("service"))
    lists: list[tuple[str, Any, type[str | dict[str, Any]]]] = [("service: extensions", service.get("extensions"), str)]
    maps = [("service", document.get("service"))]
    for name, pipeline in _map(service.get("pipelines")).items():
        where = f"service: pipelines: {name}"
        maps.append((where, pipeline))
        lists += [(f"{where}: {part}", _map(pipeline).get(part), str) for part in _PARTS]
    for name, receiver in _of(document, "receivers").items():
        maps += [(f"receivers: {name}: protocols", _map(receiver).get("protocols"))] if _kind(name) == "otlp" else []
    for name, connector in _of(document, "connectors").items():
        if _kind(name) != "signaltometrics":
            continue
        spans = _map(connector).get("spans")
        lists.append((f"connectors: {name}: spans", spans, dict))
        for metric in map(_map, _list(spans)):
            where = f"connectors: {name}: {metric.get('name')}"
            maps.append((f"{where}: histogram", metric.get("histogram")))
            lists.append((f"{where}: attributes", metric.get("attributes"), dict))
    yield from (f"{where}: expected a map" for where, value in maps if not isinstance(value, dict | None))
    for where, value, item in lists:
        if value is not None and not (isinstance(value, list) and all(isinstance(one, item) for one in value)):
            yield f"{where}: expected a list of {'names' if item is str else 'maps'}"


def _sections(document: dict[str, Any]) -> Iterator[str]:
    for section in document:
        if section not in _TOP:
            yield f"{section}: there is no such section; there are {', '.join((*_SECTIONS, 'service'))}"
    for section in _SECTIONS:
        if document.get(section) is not None and not isinstance(document[section], dict):
            yield f"{section}: expected a map of components"
        for component in _of(document, section):
            if _kind(component) not in _KNOWN[section]:
                kind = component.partition("/")[0]
                yield f"{section}: {component}: otelcol-contrib has no {section[:-1]} of type {kind!r} that is known here"


def _pipelines(document: dict[str, Any]) -> Iterator[str]:
    service = _of(document, "service")
    for extension in _names(service.get("extensions")):
        if extension not in _of(document, "extensions"):
            yield f"service: extensions: {extension} is not defined under extensions"
    pipelines = service.get("pipelines")
    if not isinstance(pipelines, dict) or not pipelines:
        yield "service: pipelines: there is none, so nothing would run"
        return
    ends: dict[str, set[str]] = {"receivers": set(), "exporters": set()}
    for name, pipeline in pipelines.items():
        if str(name).partition("/")[0] not in _SIGNALS:
            yield f"service: pipelines: {name}: the signal must be one of {', '.join(_SIGNALS)}"
        for part in _PARTS:
            used = _names(_map(pipeline).get(part))
            if part != "processors" and not used:
                yield f"service: pipelines: {name}: {part}: at least one is needed"
            for component in used:
                if part in ends:
                    ends[part].add(component)
                if component not in _of(document, part) and (
                    part == "processors" or component not in _of(document, "connectors")
                ):
                    yield f"service: pipelines: {name}: {part}: {component} is not defined under {part}"
    for connector in _of(document, "connectors"):
        if (connector in ends["receivers"]) != (connector in ends["exporters"]):
            missing = "receiver" if connector in ends["exporters"] else "exporter"
            yield f"connectors: {connector}: no pipeline has it as its {missing}"


def _derived(document: dict[str, Any]) -> Iterator[str]:
    """Metrics derived under our names must be what tierwise itself emits, or the two would not add up."""
    for name, connector in _of(document, "connectors").items():
        if _kind(name) != "signaltometrics":
            continue
        for metric in map(_map, _list(_map(connector).get("spans"))):
            known = sc.METRICS.get(str(metric.get("name")))
            if known is None:
                if str(metric.get("name")).startswith("tierwise."):
                    yield f"connectors: {name}: {metric.get('name')}: tierwise has no such metric"
                continue
            where = f"connectors: {name}: {known.name}"
            if metric.get("unit") != known.unit:
                yield f"{where}: unit {metric.get('unit')!r}; tierwise's is {known.unit!r}"
            histogram = metric.get("histogram")
            if (histogram is not None) != (known.kind == "histogram"):
                yield f"{where}: tierwise's is a {known.kind}"
            elif histogram is not None and tuple(_list(_map(histogram).get("buckets"))) != known.edges:
                yield f"{where}: its buckets are not tierwise's, so the two cannot be added up"
            for attribute in map(_map, _list(metric.get("attributes"))):
                if str(attribute.get("key")) not in sc.ATTRIBUTES:
                    yield f"{where}: tierwise has no attribute {attribute.get('key')!r}"


def _doors(document: dict[str, Any]) -> Iterator[str]:
    """Receivers that others can reach and that ask for nothing."""
    for name, receiver in _of(document, "receivers").items():
        for protocol, settings in _map(_map(receiver).get("protocols")).items():
            if not isinstance(settings, dict):
                continue
            where = f"receivers: {name}: {protocol}"
            endpoint = str(settings.get("endpoint") or "localhost:")
            if _LOOPBACK.match(endpoint):
                continue
            if not _enabled(settings.get("auth")):
                yield f"{where}: {endpoint} is open to whoever reaches it; set TIERWISE_COLLECTOR_AUTH and _TOKEN"
            if not _enabled(settings.get("tls")):
                yield f"{where}: {endpoint} without TLS sends tokens in the clear; set TIERWISE_COLLECTOR_TLS"


def _enabled(section: Any) -> bool:
    return isinstance(section, dict) and section.get("enabled", True) is True
