"""Fixtures with the real Collector, Prometheus and VictoriaMetrics; every test in this folder is marked `stack`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from support import stack

StartCollector = Callable[[Path, Mapping[str, str]], stack.Running]
_HERE = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lives in this folder."""
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.stack)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the programs' logs with a failure, while they are still there."""
    report = yield
    if report.failed:
        report.sections += [(f"log of {program.name}", program.tail()) for program in stack.RUNNING]
    return report


@pytest.fixture(scope="session")
def stack_binaries() -> stack.Binaries:
    """The programs, built where they are missing."""
    return stack.built_binaries()


@pytest.fixture
def prometheus(stack_binaries: stack.Binaries, tmp_path: Path) -> Iterator[stack.Running]:
    """An empty Prometheus with the project's own configuration."""
    with stack.running_prometheus(stack_binaries, tmp_path) as program:
        yield program


@pytest.fixture
def victoria_metrics(stack_binaries: stack.Binaries, tmp_path: Path) -> Iterator[stack.Running]:
    """An empty VictoriaMetrics."""
    with stack.running_victoria_metrics(stack_binaries, tmp_path) as program:
        yield program


@pytest.fixture
def collector(stack_binaries: stack.Binaries, tmp_path: Path) -> Iterator[StartCollector]:
    """A function that starts the Collector: `collector(config, environment)`; each has a folder of its own."""
    with ExitStack() as started:

        def start(config: Path, environment: Mapping[str, str]) -> stack.Running:
            number = len(list(tmp_path.glob("collector-*")))
            folder = tmp_path / f"collector-{number}"
            folder.mkdir()
            return started.enter_context(stack.running_collector(stack_binaries, folder, config, environment))

        yield start
