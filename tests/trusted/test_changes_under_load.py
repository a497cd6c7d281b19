"""What changes while calls are made: policy, prices and routes of a client, the store under its writers."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

import tierwise
from support.canned import ASK
from support.contention import BATCHES, SIZE
from support.load import numbered_client
from tierwise.core.policy import Policy, TaskPolicy
from tierwise.core.route import Route, RouteTable
from tierwise.evidence import SqliteStore
from tierwise.routing import write_table

pytestmark = pytest.mark.faults

TESTS = Path(__file__).parents[1]
THREADS = 16
CHANGES = 30
USAGE_USD = {"cheap": 1.0, "dear": 10.0}
"""Price of a thousand tokens under each policy, for `a`; twice as much for `b`."""


def _policy(name: str) -> Policy:
    price = USAGE_USD[name] * 1000
    return Policy(
        prices={"a": {"input": price, "output": price}, "b": {"input": 2 * price, "output": 2 * price}},
        tasks={"busy": TaskPolicy(task="busy", candidates=("a", "b"))},
        default_model="a",
    )


def _table(version: int) -> RouteTable:
    return RouteTable(version=version, routes={"busy": Route(task="busy", primary="ab"[version % 2])})


def test_policy_and_routes_change_while_sixteen_threads_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No call fails or is recorded twice or not at all; each follows one table and has the prices of one policy."""
    path, store_path = tmp_path / "routes.json", tmp_path / "s.db"
    monkeypatch.setenv("TIERWISE_ROUTES", str(path))
    write_table(path, _table(1), expected_version=0)
    policies = {name: _policy(name) for name in USAGE_USD}
    client = tierwise.instrument(numbered_client("n"), task="busy", config=policies["cheap"], store=store_path)
    stop, wrong, made = threading.Event(), list[object](), list[str]()

    def call() -> None:
        while not stop.is_set():
            try:
                made.append(client.chat.completions.create(**{**ASK, "model": "auto"}).id)
                time.sleep(0.002)  # who changes has a turn
            except Exception as error:
                wrong.append(error)
                return

    threads = [threading.Thread(target=call) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for version in range(1, CHANGES + 1):
        write_table(path, _table(version + 1), expected_version=version)
        name = ("dear", "cheap")[version % 2]
        again = tierwise.instrument(client, task="busy", config=policies[name], store=store_path)
        assert again is client
        time.sleep(0.1)
    stop.set()
    for thread in threads:
        thread.join()
    tierwise.shutdown()
    assert wrong == []
    with SqliteStore.open(store_path) as store:
        rows = list(store.calls())
    assert sorted(row.response_id or "" for row in rows) == sorted(made)
    assert {(row.candidate, (row.route_version or 0) % 2) for row in rows} == {("a", 0), ("b", 1)}
    costs = Counter(
        round(
            (row.cost_usd or 0)
            / ((row.input_tokens or 0) + (row.output_tokens or 0))
            / (2 if row.candidate == "b" else 1),
            9,
        )
        for row in rows
    )
    assert set(costs) == {USAGE_USD["cheap"] / 1e3, USAGE_USD["dear"] / 1e3}
    assert len({row.route_version for row in rows}) > 3


def test_one_store_opened_for_the_first_time_and_worked_on_by_many_processes(tmp_path: Path) -> None:
    """Eight processes make one store at the same moment; others write while it is pruned, repriced, packed and read:
    written is what is there and what was pruned, and the sums hold all of it."""
    done = subprocess.run(
        [sys.executable, "-m", "support.contention", str(tmp_path)],
        cwd=TESTS, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    written = json.loads(done.stdout)["written"]
    assert written % (BATCHES * SIZE) == 0
    with SqliteStore.open(tmp_path / "busy.db") as store:
        rows, health = list(store.calls()), store.health()
        kept = store.evidence()
        assert health.intact
        assert len(rows) + health.pruned == written
        assert 0 < len(rows) < written
        assert len({row.response_id for row in rows}) == len(rows)
        assert sum(row.evidence.n for row in kept) == written
        read = [sum(series.column("n")) for one in store.evidence_by_task() for series in one.series.values()]
        assert sum(read) == written
        costs: dict[int, list[float]] = {}
        for row in rows:
            costs.setdefault(row.started_at_ns // (3600 * 10**9) * 3600, []).append(row.cost_usd or 0.0)
        whole = [row for row in kept if len(costs.get(row.key.bucket, ())) == row.evidence.n]
        assert len(whole) > 5
        for row in whole:
            assert row.evidence.cost_sum == pytest.approx(sum(costs[row.key.bucket]), rel=1e-9)
        assert {0.01} <= {round(row.cost_usd or 0, 9) for row in rows} <= {0.001, 0.01}


def test_a_client_is_switched_on_and_off_while_threads_call(tmp_path: Path) -> None:
    """No call fails; each is recorded once or, while it was off, not at all."""
    store_path = tmp_path / "s.db"
    client = numbered_client("n")
    stop, wrong, made = threading.Event(), list[object](), list[str]()

    def call() -> None:
        while not stop.is_set():
            try:
                made.append(client.chat.completions.create(**{**ASK, "model": "a"}).id)
            except Exception as error:
                wrong.append(error)
                return

    def switch() -> None:
        for _ in range(40):
            tierwise.instrument(client, task="busy", config=_policy("cheap"), store=store_path)
            time.sleep(0.005)
            tierwise.uninstrument(client)
            time.sleep(0.005)

    callers = [threading.Thread(target=call) for _ in range(8)]
    switchers = [threading.Thread(target=switch) for _ in range(2)]
    for thread in (*callers, *switchers):
        thread.start()
    for thread in switchers:
        thread.join()
    stop.set()
    for thread in callers:
        thread.join()
    tierwise.shutdown()
    assert wrong == []
    assert type(client).__module__.startswith("openai")
    assert "_tierwise" not in client.__dict__
    with SqliteStore.open(store_path) as store:
        ids = [row.response_id or "" for row in store.calls()]
    assert len(ids) == len(set(ids))
    assert set(ids) < set(made)
    assert len(ids) > 10
