"""Fixtures that the trials of faults share: a model server, and faults inside tierwise that stay inside."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.io_server import provider


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The base URL of a model server in a process of its own."""
    with provider() as base_url:
        yield base_url


@pytest.fixture
def in_production(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults inside tierwise are logged and counted, not raised."""
    monkeypatch.delenv("TIERWISE_RAISE", raising=False)
