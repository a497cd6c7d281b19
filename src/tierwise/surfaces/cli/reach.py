"""What the `OTEL_*` variables ask for, and whether the endpoints accept a connection; for `tierwise doctor`."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from typing import Final, Literal
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from tierwise.core.errors import ConfigError

Found = tuple[Literal["ok", "note", "finding"], str, str]
"""Level, what was found, what to do about it."""

CONNECT_S: Final = 1.0
SIGNALS: Final = ("TRACES", "METRICS", "LOGS")
OTLP: Final = {"otlp_proto_grpc": 4317, "otlp_proto_http": 4318}
"""Exporters that send to an endpoint, with the port of their default one on localhost."""

SHOWN_VARIABLES: Final = frozenset(
    {
        "OTEL_SEMCONV_STABILITY_OPT_IN", "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER",
        "OTEL_LOGS_EXPORTER", "OTEL_SERVICE_NAME", "OTEL_TRACES_SAMPLER", "OTEL_SDK_DISABLED",
        "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT",
    }
)  # fmt: skip
"""Variables whose values hold no secret; of all others the name alone is shown, of endpoints the host and port."""

_CORRECT: Final = "write http://HOST:4318 (HTTP) or http://HOST:4317 (gRPC)"


def export_points() -> Iterator[Found]:
    """What is exported where, and whether somebody listens there. Never sends a byte."""
    names = sorted(name for name, value in os.environ.items() if name.startswith("OTEL_") and value)
    if not names:
        yield "note", "no OTEL_* variable is set: only the store records, unless the application sets providers", ""
        return
    shown = ", ".join(f"{name}={os.environ[name]}" if name in SHOWN_VARIABLES else name for name in names)
    yield "ok", f"set: {shown}", ""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        yield "note", "OTEL_SDK_DISABLED=true: nothing is exported", "unset it to export"
        return
    places: dict[tuple[str, int], list[str]] = {}
    for signal in SIGNALS:
        yield from _signal(signal, places)
    yield from _reached(places)


def _signal(signal: str, places: dict[tuple[str, int], list[str]]) -> Iterator[Found]:
    """Collect where one signal goes; what cannot work is said at once."""
    from tierwise.telemetry.setup import exporter_names

    try:
        exporters = exporter_names(signal)
    except ConfigError as error:
        yield "finding", str(error), "set grpc or http/protobuf"
        return
    for exporter in exporters:
        if not _installed(signal, exporter):
            todo = f"install its package, or set OTEL_{signal}_EXPORTER=otlp or none"
            yield "finding", f"OTEL_{signal}_EXPORTER asks for {exporter}, which is not installed", todo
        elif exporter in OTLP:
            variable, value = _endpoint(signal)
            place = _place(value, OTLP[exporter], scheme_needed=exporter == "otlp_proto_http")
            if place is None:
                yield "finding", f"{variable} is no address that {signal.lower()} can be sent to", _CORRECT
            elif place[0]:
                places.setdefault(place, []).append(signal.lower())
            else:
                yield "note", f"{variable} is a local socket, which was not tried", ""
        else:
            yield "ok", f"{signal.lower()} go to {exporter}", ""


def _installed(signal: str, exporter: str) -> bool:
    from importlib.metadata import entry_points

    return bool(entry_points(group=f"opentelemetry_{signal.lower()}_exporter", name=exporter))


def _endpoint(signal: str) -> tuple[str, str]:
    """The variable that names a signal's endpoint and its value, empty for the default endpoint."""
    for name in (f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        if value := os.environ.get(name, "").strip():
            return name, value
    return "OTEL_EXPORTER_OTLP_ENDPOINT", ""


def _place(value: str, port: int, *, scheme_needed: bool) -> tuple[str, int] | None:
    """Host and port of an endpoint; an empty host for a local socket, `None` for what cannot be one."""
    if not value:
        return "localhost", port
    if value.startswith("unix:") and not scheme_needed:
        return "", 0
    try:
        parts: SplitResult = urlsplit(value if "://" in value or scheme_needed else f"//{value}")
        host, named = parts.hostname, parts.port
    except ValueError:
        return None
    if not host or (scheme_needed and parts.scheme not in ("http", "https")):
        return None
    return host, named or ({"http": 80, "https": 443}.get(parts.scheme, port) if scheme_needed else port)


def _reached(places: dict[tuple[str, int], list[str]]) -> Iterator[Found]:
    """Try all places at once, each for a second, name look-up included."""
    problems: dict[tuple[str, int], str] = {}
    threads = [threading.Thread(target=_try, args=(place, problems), daemon=True) for place in places]
    for thread in threads:
        thread.start()
    for thread, (place, signals) in zip(threads, places.items(), strict=True):
        thread.join(CONNECT_S + 0.2)
        host, port = place
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        problem = f"no answer within {CONNECT_S:g} s" if thread.is_alive() else problems.get(place)
        goes = " and ".join(signals)
        if problem is None:
            yield "ok", f"{goes} go to {where}, which accepts connections", ""
        elif _proxied(host):
            yield "note", f"{goes} go to {where} through a proxy; without it: {problem}", ""
        else:
            todo = "start the receiver there, correct OTEL_EXPORTER_OTLP_ENDPOINT, or look for a firewall"
            yield "finding", f"{goes} go to {where}, which cannot be reached: {problem}", todo


def _try(place: tuple[str, int], problems: dict[tuple[str, int], str]) -> None:
    try:
        socket.create_connection(place, timeout=CONNECT_S).close()
    except OSError as error:
        problems[place] = error.strerror or str(error)
    except (UnicodeError, OverflowError) as error:
        problems[place] = f"not a host name ({error})"


def _proxied(host: str) -> bool:
    return any(scheme in ("http", "https", "all") for scheme in getproxies()) and not proxy_bypass(host)
