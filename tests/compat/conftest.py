"""Fixtures for tests beside other packages: a model server, and what tierwise recorded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from compat.model_server import ModelServer, model_server
from compat.watching import Watching


@pytest.fixture(scope="session")
def _one_model_server() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture
def models(_one_model_server: ModelServer) -> ModelServer:
    """A model server that was asked nothing yet."""
    _one_model_server.bodies.clear()
    _one_model_server.headers.clear()
    _one_model_server.faults.clear()
    return _one_model_server


@pytest.fixture
def watching(tmp_path: Path) -> Iterator[Watching]:
    """Providers and a store, everything of tierwise undone afterwards."""
    made = Watching(tmp_path)
    yield made
    made.close()
