"""What `opentelemetry-instrument` loads: the entry point `opentelemetry_instrumentor`."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any


class TierwiseInstrumentor:
    """Has the methods of OpenTelemetry's `BaseInstrumentor`, without depending on the package that defines it."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """Nothing has to be installed: packages are observed when they are imported."""
        return ()

    def instrument(self, **kwargs: Any) -> None:
        """Observe every client made later; providers given by the loader are used, other options are not ours."""
        import tierwise

        tierwise.instrument(
            task=os.environ.get("TIERWISE_TASK") or None,
            tracer_provider=kwargs.get("tracer_provider"),
            meter_provider=kwargs.get("meter_provider"),
            logger_provider=kwargs.get("logger_provider"),
        )

    def uninstrument(self, **kwargs: Any) -> None:
        """Leave clients made from now on alone."""
        del kwargs
        import tierwise

        tierwise.uninstrument()
