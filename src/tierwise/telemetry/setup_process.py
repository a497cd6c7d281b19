"""What short-lived, forked and frozen processes need of our own providers: an identity each, and export in time."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

INTERVAL_VARIABLE: Final = "OTEL_METRIC_EXPORT_INTERVAL"
SHORT_INTERVAL_MS: Final = 5_000
_INSTANCE_ID: Final = "service.instance.id"
_SHORT_LIVED: Final = (
    "AWS_LAMBDA_FUNCTION_NAME", "FUNCTIONS_WORKER_RUNTIME", "FUNCTION_TARGET", "K_SERVICE", "CLOUD_RUN_JOB",
    "CONTAINER_APP_JOB_NAME", "VERCEL", "FORKED_BY_MULTIPROCESSING",
)  # fmt: skip
"""Set by Lambda, Azure Functions, Google's functions and Cloud Run, Azure's container jobs, Vercel, and Celery's pool."""


_identities: dict[int, str] = {}


def _identity() -> str:
    """This process's own: the same on spans, metrics and log records."""
    pid = os.getpid()
    return _identities.get(pid) or _identities.setdefault(pid, str(uuid.uuid4()))


def process_resource() -> Resource:
    """The resource of our own providers, with a `service.instance.id` that no other process has.

    Cumulative sums of two processes under one identity would overwrite each other. Newer SDKs give each process one and
    a forked child another; here the same holds for those that do not, and for a child of a process that was given one.
    """
    from opentelemetry.sdk.resources import Resource

    class ProcessResource(Resource):
        """As the given one; in another process than the one that made it, with an identity of its own."""

        def __init__(self, attributes: Mapping[str, Any], schema_url: str) -> None:
            super().__init__(dict(attributes), schema_url)
            self._made_in = os.getpid()

        @property
        def attributes(self) -> Any:
            pid = os.getpid()
            if pid != self._made_in:
                own = Resource({**super().attributes, _INSTANCE_ID: _identity()}, self.schema_url)
                self._attributes, self._made_in = own._attributes, pid
            return super().attributes

    found = Resource.create()
    identity = found.attributes.get(_INSTANCE_ID) or _identity()
    return ProcessResource({**found.attributes, _INSTANCE_ID: identity}, found.schema_url)


def export_interval_ms() -> int | None:
    """Milliseconds between exports of metrics, or `None` for the SDK's own (`OTEL_METRIC_EXPORT_INTERVAL`, 60 s).

    A worker of a prefork server is ended without warning when it is stuck, and a serverless instance is frozen after
    its answer: both would keep up to a minute of metrics to themselves.
    """
    if os.environ.get(INTERVAL_VARIABLE, "").strip():
        return None
    prefork = os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn") or "uwsgi" in sys.modules
    return SHORT_INTERVAL_MS if prefork or any(os.environ.get(name) for name in _SHORT_LIVED) else None
