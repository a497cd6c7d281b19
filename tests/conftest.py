"""Fixtures for all tests: faults inside tierwise are raised, nothing of the machine's configuration leaks in."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import settings

# A busy machine is no fault of what is tested.
settings.register_profile("tierwise", deadline=None)
settings.load_profile("tierwise")
_numbers = itertools.count()


@pytest.fixture(scope="session")
def _states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("states")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, _states: Path) -> None:
    for name in (
        "TIERWISE_CONFIG",
        "TIERWISE_STORE",
        "TIERWISE_ROUTES",
        "TIERWISE_RECEIPT_KEY",
        "OTEL_SEMCONV_STABILITY_OPT_IN",
        "NO_COLOR",
        "COLUMNS",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TIERWISE_RAISE", "1")
    monkeypatch.setenv("XDG_STATE_HOME", str(_states / str(next(_numbers))))  # made when something is written there
