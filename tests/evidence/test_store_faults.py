"""The embedded store when things go wrong: doubtful commits, damage, locks, huge numbers, losses, old schemas."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.calls import START_NS, make_call
from tierwise.core.call import Call, Run, Usage
from tierwise.core.cost import Cost, Rates, flat_rates
from tierwise.core.errors import StoreError
from tierwise.core.evidence import Evidence, Key
from tierwise.evidence import SqliteStore, retention, schema
from tierwise.evidence.rollup import sum_up
from tierwise.evidence.rows import COLUMNS, RUN_COLUMNS, CallRow

FIXTURES = Path(__file__).parent / "fixtures"
HOUR_NS = 3600 * 10**9
EXACT = (
    "n", "successes", "priced", "priced_successes", "outcomes", "json_forms", "tokens", "latency", "ttft", "escalated",
    "retries", "retried", "check_count",
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path):  # type: ignore[no-untyped-def]
    with SqliteStore.open(tmp_path / "tierwise.db") as opened:
        yield opened


def _assert_evidence_is_the_rollup(store: SqliteStore) -> None:
    rolled: dict[Key, Evidence] = sum_up((row.to_call() for row in store.calls()), store.runs())
    kept = {row.key: row.evidence for row in store.evidence()}
    assert rolled.keys() == kept.keys()
    for key, evidence in rolled.items():
        for name in EXACT:
            assert getattr(kept[key], name) == getattr(evidence, name), name
        for name in ("cost_sum", "cost_sq_sum", "cost_success_sum", "latency_sum_s"):
            assert getattr(kept[key], name) == pytest.approx(getattr(evidence, name), rel=1e-12, abs=0)


class DoubtfulConnection:
    """A connection whose next commit succeeds and then reports an error, as a failing disk may."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.doubtful = True

    def execute(self, statement: str, *values: Any) -> Any:
        done = self.connection.execute(statement, *values)
        if statement == "COMMIT" and self.doubtful:
            self.doubtful = False
            raise sqlite3.OperationalError("disk I/O error")
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)


@pytest.mark.parametrize("happened", [True, False])
def test_a_retry_after_a_doubtful_commit_never_counts_twice(store: SqliteStore, happened: bool) -> None:
    """A batch handed in again, with more behind it, is there once, whether or not its commit had happened."""
    store.write([make_call("before")])
    batch: list[Call | Run] = [make_call("batch"), make_call("batch")]
    real = store._connection
    store._connection = DoubtfulConnection(real)  # type: ignore[assignment, arg-type]
    with pytest.raises(StoreError, match="disk I/O error"):
        store.write(batch)
    store._connection = real
    if not happened:
        assert real is not None
        real.executescript("DELETE FROM calls WHERE task = 'batch'; DELETE FROM evidence WHERE task = 'batch';")
        real.execute("UPDATE writers SET batches = 1")
    store.write([*batch, make_call("more")])
    store.write([make_call("after")])
    assert [row.task for row in store.calls()] == ["before", "batch", "batch", "more", "after"]
    _assert_evidence_is_the_rollup(store)


def test_an_error_while_pruning_does_not_ask_for_the_batch_again(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that is in stays in once, even when what follows it fails."""

    def fail(*_: object) -> bool:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(retention, "due", fail)
    store.write([make_call()])
    assert store.call_count() == 1


def test_losses_are_written_down_with_the_next_batch_or_at_the_end(tmp_path: Path) -> None:
    """`add_dropped` shows at once, survives in the file, and is not written twice."""
    path = tmp_path / "s.db"
    with SqliteStore.open(path) as store:
        store.add_dropped(3)
        assert store.health().dropped == 3
        store.write([make_call()])
        store.write([make_call()])
        store.add_dropped(2)
    with SqliteStore.open(path, read_only=True) as reader:
        assert reader.health().dropped == 5


def test_numbers_that_no_integer_holds_are_left_out(store: SqliteStore) -> None:
    """A provider's absurd token count costs its own field alone; the batch and its evidence are sound."""
    store.write([make_call(usage=Usage(input_tokens=10**30, output_tokens=5)), make_call()])
    assert [(row.input_tokens, row.output_tokens) for row in store.calls()] == [(None, 5), (100, 50)]
    _assert_evidence_is_the_rollup(store)


def test_locked_by_another_process(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that keeps the write lock beyond the timeout costs an error that names it, and no rows."""
    monkeypatch.setattr("tierwise.evidence.sqlite._BUSY_MS", 100)
    store.close()
    hold = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN IMMEDIATE'); "
        "print('held', flush=True); sys.stdin.read(); c.execute('ROLLBACK'); c.close()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(store.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StoreError, match=r"locked by another process for over 0\.1 s"):
            store.write([make_call()])
        holder.communicate(b"")
    store.write([make_call()])
    assert store.call_count() == 1


def test_damage_is_found_and_named(tmp_path: Path) -> None:
    """A file overwritten in the middle is reported as damaged by `health` or by the first read that meets it."""
    path = tmp_path / "s.db"
    with SqliteStore.open(path) as store:
        store.write([make_call(f"t{n}") for n in range(400)])
        with store._used() as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    content = bytearray(path.read_bytes())
    content[8192 : len(content) - 4096] = b"\xff" * (len(content) - 4096 - 8192)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="damaged"), SqliteStore.open(path) as store:
        list(store.calls())


def test_a_path_with_telling_words_does_not_change_the_diagnosis(tmp_path: Path) -> None:
    """Words such as `full` or `locked` in a path are not taken for the cause."""
    (tmp_path / "full-locked").write_text("x")
    with pytest.raises(StoreError, match="cannot be used as a store") as caught:
        SqliteStore.open(tmp_path / "full-locked" / "malformed" / "s.db")
    assert "disk is full" not in str(caught.value)


def _columns(connection: sqlite3.Connection, table: str) -> list[tuple[str, str]]:
    return [(row[1], row[2]) for row in connection.execute(f"PRAGMA table_info({table})")]


def test_the_first_schema_is_never_changed() -> None:
    """The first migration makes exactly the tables and indexes of the committed version 1."""
    shapes = []
    for statements in (schema.MIGRATIONS[0], None):
        connection = sqlite3.connect(":memory:")
        if statements is None:
            connection.executescript((FIXTURES / "store-v1.sql").read_text(encoding="utf-8"))
        else:
            for statement in statements:
                connection.execute(statement)
        names = connection.execute("SELECT type, name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY 1, 2")
        tables = {name: kind for kind, name in names.fetchall()}
        shapes.append(({name: _columns(connection, name) for name in tables}, tables))
        connection.close()
    assert shapes[0] == shapes[1]


def test_an_old_store_is_migrated_and_goes_on(tmp_path: Path) -> None:
    """A version 1 store is only read after a writer migrated it; then it has the newest schema and all of its rows."""
    path = tmp_path / "old.db"
    connection = sqlite3.connect(path)
    connection.executescript((FIXTURES / "store-v1.sql").read_text(encoding="utf-8"))
    connection.close()
    with pytest.raises(StoreError, match="migrate"):
        SqliteStore.open(path, read_only=True)
    with SqliteStore.open(path) as store:
        store.write([make_call()])
        assert (store.call_count(), store.health().schema_version) == (2, schema.VERSION)
        _assert_evidence_is_the_rollup(store)


def test_rows_and_tables_have_the_same_columns(store: SqliteStore) -> None:
    """Every field of a call row and of a run has its column, and docs/store.md describes every column."""
    documented = (Path(__file__).parents[2] / "docs" / "store.md").read_text(encoding="utf-8")
    with store._used() as connection:
        assert [name for name, _ in _columns(connection, "calls")] == ["id", *COLUMNS]
        assert [name for name, _ in _columns(connection, "runs")] == ["id", *RUN_COLUMNS]
        assert tuple(name for name, _ in _columns(connection, "evidence")) == schema.EVIDENCE_COLUMNS
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in (name for name in tables if not name.startswith("sqlite_")):
            assert f"## `{table}`" in documented
            assert [name for name, _ in _columns(connection, table) if f"`{name}`" not in documented] == []


def test_reading_goes_page_by_page_in_order(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows than a page, many with one start time, are all there once, both ways and with a limit."""
    monkeypatch.setattr("tierwise.evidence.pages.PAGE_ROWS", 7)
    store.write([make_call(f"t{n}", started_at_ns=START_NS + n // 10) for n in range(50)])
    names = [f"t{n}" for n in range(50)]
    assert [row.task for row in store.calls()] == names
    assert [row.task for row in store.calls(newest_first=True)] == names[::-1]
    assert [row.task for row in store.calls(limit=20)] == names[:20]
    assert [row.task for row in store.calls(limit=0)] == []


def test_rows_written_while_reading_do_not_disturb_the_reader(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unfinished read neither blocks a write nor repeats a row."""
    monkeypatch.setattr("tierwise.evidence.pages.PAGE_ROWS", 3)
    store.write([make_call(f"t{n}", started_at_ns=START_NS + n) for n in range(6)])
    rows = store.calls()
    assert next(rows).task == "t0"
    store.write([make_call("earlier", started_at_ns=START_NS - 1)])
    assert [row.task for row in rows] == [f"t{n}" for n in range(1, 6)]


def _calls() -> st.SearchStrategy[Call]:
    def build(values: tuple[Any, ...]) -> Call:
        task, model, outcome, usd, latency, hour, retries, form, run, rung = values
        return make_call(
            f"task-{task}", model=f"m{model}", outcome=outcome, duration_s=latency, retries=retries, json_form=form,
            started_at_ns=START_NS + hour * HOUR_NS, cost=None if usd is None else Cost(amount_usd=usd, source="override"),
            run_id="run" if run else None, rung=rung, session="s" if task == 0 else "", round=model if task == 0 else -1,
        )  # fmt: skip

    return st.tuples(
        st.integers(0, 2), st.integers(0, 1), st.sampled_from(["success", "truncated", "cancelled", "error"]),
        st.none() | st.floats(0, 10), st.floats(0, 500), st.integers(0, 3), st.integers(0, 3),
        st.sampled_from([None, "plain", "fenced"]), st.booleans(), st.integers(0, 1),
    ).map(build)  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(batches=st.lists(st.lists(_calls(), max_size=12), max_size=5))
def test_evidence_is_the_rollup_however_it_was_batched(
    batches: list[list[Call]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """For any calls in any batches the table of evidence equals the evidence of all rows."""
    with SqliteStore.open(tmp_path_factory.mktemp("batches") / "s.db") as store:
        for batch in batches:
            store.write(batch)
        _assert_evidence_is_the_rollup(store)


def test_a_new_price_of_a_later_call_reaches_its_runs_first_candidate(store: SqliteStore) -> None:
    """Repricing the model that a run escalated to changes the run's cost, which its first candidate bears."""
    run = Run(
        run_id="r", task="summary", candidate="small", epoch="00ff00ff", arm="pinned", grade="observational",
        started_at_ns=START_NS, duration_s=3.0, calls=2, success=True, outcome="success", cost_usd=0.002,
    )  # fmt: skip
    small = make_call(model="small", run_id="r", outcome="truncated")
    store.write([small, make_call(model="large", run_id="r", rung=1, started_at_ns=START_NS + 10**9), run])

    def rates(row: CallRow) -> Rates | None:
        return flat_rates(input=100.0, output=0.0) if row.candidate == "large" else None

    done = store.reprice(rates)
    assert (done.calls, done.rebuilt, done.left) == (1, 2, 0)
    (kept,) = store.runs()
    assert kept.cost_usd == pytest.approx(0.001 + 100 * 100 / 1e6)
    _assert_evidence_is_the_rollup(store)


def test_hours_with_pruned_rows_keep_their_cost(store: SqliteStore) -> None:
    """What can no longer be computed stays as it was and is reported."""
    store.write([make_call(), make_call(started_at_ns=START_NS + 1)])
    with store._used() as connection:
        connection.execute("DELETE FROM calls WHERE started_at_ns = ?", (START_NS,))
    done = store.reprice(lambda row: flat_rates(input=100.0, output=0.0))
    assert (done.calls, done.rebuilt, done.left) == (1, 0, 1)
    assert store.evidence()[0].evidence.cost_sum == pytest.approx(0.002)


def test_pruning_goes_on_batch_by_batch_until_it_has_caught_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slice a batch: the first due batch begins, the following ones go on, and none deletes more than a slice."""
    monkeypatch.setattr(retention, "SLICE_ROWS", 10)
    now = [START_NS / 1e9]
    with SqliteStore.open(tmp_path / "s.db", clock=lambda: now[0]) as store:
        store.write([make_call(started_at_ns=START_NS + n) for n in range(35)])
        now[0] += 40 * 86_400
        pruned = []
        for _ in range(5):
            store.write([make_call(started_at_ns=int(now[0] * 1e9))])
            pruned.append(store.health().pruned)
        assert pruned == [10, 20, 30, 35, 35]
        assert sum(row.evidence.n for row in store.evidence()) == 40


def test_processes_that_live_shortly_prune_as_well(tmp_path: Path) -> None:
    """The last pruning is remembered in the file: a writer opened later prunes with its first batch."""
    now = [START_NS / 1e9]
    path = tmp_path / "s.db"
    with SqliteStore.open(path, clock=lambda: now[0]) as store:
        store.write([make_call()])
    now[0] += 40 * 86_400
    for expected in (1, 1):
        with SqliteStore.open(path, clock=lambda: now[0]) as store:
            store.write([make_call(started_at_ns=int(now[0] * 1e9))])
            assert store.health().pruned == expected


def test_vacuum_gives_space_back(store: SqliteStore) -> None:
    """After rows are deleted, `vacuum` makes the file smaller."""
    store.write([make_call(f"t{n}") for n in range(2_000)])
    with store._used() as connection:
        connection.execute("DELETE FROM calls")
    before, after = store.vacuum()
    assert after < before
    assert store.health().intact
