"""Fixtures for all tests: faults inside tierwise are raised, nothing of the machine's configuration leaks in."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    for name in ("TIERWISE_CONFIG", "TIERWISE_STORE", "TIERWISE_ROUTES", "OTEL_SEMCONV_STABILITY_OPT_IN", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TIERWISE_RAISE", "1")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
