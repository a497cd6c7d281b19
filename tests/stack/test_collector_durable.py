"""The durable configuration under kill -9: what was acknowledged is stored, and what may be twice is bounded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from support import stack
from support.stack_senders import Load, counted

StartCollector = Callable[[Path, Mapping[str, str]], stack.Running]
DURABLE = stack.COLLECTOR / "config-durable.yaml"
ONE_SEND = 256
"""Spans that one send to the second half holds at most: what a kill may leave sent but not crossed off."""


def _settled(prometheus: stack.Running, service: str, wanted: int) -> float:
    selector = f'tierwise_calls_total{{service_name="{service}"}}'
    stack.eventually(lambda: counted(prometheus, selector) >= wanted, True, within_s=60)
    # Whatever else is still on its way would be too much.
    time.sleep(3)
    return counted(prometheus, selector)


def test_killed_collector_loses_nothing_acknowledged(prometheus: stack.Running, collector: StartCollector) -> None:
    """Three kills under load: every acknowledged span is stored; extra ones are at most unanswered requests and one send a kill."""
    running = collector(DURABLE, {"TIERWISE_METRICS_ENDPOINT": stack.metrics_endpoint(prometheus)})
    kills = 3
    with Load(running.url, "killed-collector") as load:
        for _ in range(kills):
            time.sleep(2)
            running.kill()
            running.start()
        time.sleep(1)
    stored = _settled(prometheus, "killed-collector", load.acknowledged)
    assert load.acknowledged > 100
    assert load.acknowledged <= stored <= load.acknowledged + load.unanswered + kills * ONE_SEND


def test_killed_backend_loses_nothing_acknowledged(prometheus: stack.Running, collector: StartCollector) -> None:
    """Prometheus killed and down under load, then the Collector as well: all that was acknowledged arrives."""
    running = collector(DURABLE, {"TIERWISE_METRICS_ENDPOINT": stack.metrics_endpoint(prometheus)})
    with Load(running.url, "killed-backend") as load:
        time.sleep(2)
        prometheus.kill()
        time.sleep(3)
        running.kill()
        running.start()
        time.sleep(2)
        prometheus.start()
        time.sleep(1)
    stored = _settled(prometheus, "killed-backend", load.acknowledged)
    assert load.acknowledged > 100
    assert load.acknowledged <= stored <= load.acknowledged + load.unanswered + ONE_SEND
