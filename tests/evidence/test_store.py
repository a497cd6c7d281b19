"""The embedded store: what is written is read, evidence follows the rows, several processes write at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import stat
import time
from pathlib import Path

import pytest

from support.calls import START_NS, make_call
from support.writers import write_for_ever, write_many
from tierwise.core.call import Answer, CheckResult, Run, Try
from tierwise.core.cost import flat_rates
from tierwise.core.errors import StoreError
from tierwise.core.evidence import Evidence, EvidenceBuilder, EvidenceRow, Key, key_of, key_of_run
from tierwise.evidence import SqliteStore, schema

HOUR_NS = 3600 * 10**9


@pytest.fixture
def store(tmp_path: Path):  # type: ignore[no-untyped-def]
    with SqliteStore.open(tmp_path / ".tierwise" / "tierwise.db") as opened:
        yield opened


def _rollup(store: SqliteStore) -> dict[Key, Evidence]:
    builders: dict[Key, EvidenceBuilder] = {}
    for row in store.calls():
        call = row.to_call()
        builders.setdefault(key_of(call), EvidenceBuilder()).add_call(call)
    for run in store.runs():
        builders.setdefault(key_of_run(run), EvidenceBuilder()).add_run(run)
    return {key: builder.build() for key, builder in builders.items()}


def _evidence(store: SqliteStore) -> dict[Key, Evidence]:
    return {row.key: row.evidence for row in store.evidence()}


def _run(**changes: object) -> Run:
    fields: dict[str, object] = {
        "run_id": "r", "task": "summary", "candidate": "gpt-5-mini", "epoch": "00ff00ff", "arm": "pinned",
        "grade": "observational", "started_at_ns": START_NS, "duration_s": 3.0, "calls": 2, "success": True,
        "outcome": "success", "cost_usd": 0.002,
    }  # fmt: skip
    return Run(**(fields | changes))  # type: ignore[arg-type]


def test_a_call_is_read_as_it_was_written(store: SqliteStore) -> None:
    """Every stored field survives, and the row leads back to the same call."""
    call = make_call(
        checks=(CheckResult(name="bullets", score=0.5, passed=False),),
        failed_tries=(Try(number=0, status=429, backoff_s=0.5, ended_at_ns=7),),
        retries=1, outcome="check_failed", json_form="plain", trace_id=1 << 127, span_id=1 << 63, rung=2, arm="fallback",
    )  # fmt: skip
    store.write([call])
    (row,) = store.calls()
    assert (row.task, row.outcome, row.cost_usd, row.input_tokens, row.json_valid) == (
        "summary", "check_failed", 0.001, 100, True,
    )  # fmt: skip
    assert row.trace_id == f"{1 << 127:032x}"
    assert row.to_call() == call


def test_evidence_is_the_rollup_of_the_rows(store: SqliteStore) -> None:
    """Evidence written batch by batch equals the evidence of all rows."""
    outcomes = ("success", "truncated", "cancelled", "json_fenced", "rejected")
    for batch in range(6):
        store.write(
            [
                make_call(
                    f"task-{n % 3}", model=f"m{n % 2}", outcome=outcomes[n % 5], duration_s=n / 7,
                    started_at_ns=START_NS + n * HOUR_NS // 9, json_form="fenced" if n % 5 == 3 else None,
                )
                for n in range(batch * 20, batch * 20 + 20)
            ]
        )  # fmt: skip
    store.write([make_call(run_id="r"), make_call(run_id="r", rung=1), _run()])
    rolled, kept = _rollup(store), _evidence(store)
    assert rolled.keys() == kept.keys()
    for key, evidence in rolled.items():
        for name in ("n", "successes", "outcomes", "json_forms", "tokens", "latency", "escalated"):
            assert getattr(kept[key], name) == getattr(evidence, name)
        assert kept[key].cost_sum == pytest.approx(evidence.cost_sum, rel=1e-12)


def test_a_run_counts_once(store: SqliteStore) -> None:
    """Two calls of one run are one unit at rung 0 with the run's cost, and one attempt at rung 1."""
    store.write([make_call(run_id="r", outcome="truncated"), make_call(run_id="r", rung=1), _run()])
    by_rung = {row.key.rung: row.evidence for row in store.evidence()}
    assert (by_rung[0].n, by_rung[0].successes, by_rung[0].cost_sum) == (1, 1, 0.002)
    assert by_rung[0].outcomes == {"truncated": 1}
    assert (by_rung[1].n, by_rung[1].outcomes) == (1, {"success": 1})


def test_bench_rounds_are_buckets_of_their_own(store: SqliteStore) -> None:
    """Calls of two rounds in one hour are two buckets."""
    store.write([make_call(session="s", round=n, randomised=True) for n in (0, 1)])
    assert [(row.key.session, row.key.round, row.evidence.n) for row in store.evidence()] == [("s", 0, 1), ("s", 1, 1)]


def test_filters_and_order(store: SqliteStore) -> None:
    """Calls are found by task, model, outcome, session and time, oldest or newest first."""
    store.write([make_call(f"t{n}", model=f"m{n % 2}", started_at_ns=START_NS + n, session="s") for n in range(6)])
    assert [row.task for row in store.calls(newest_first=True, limit=2)] == ["t5", "t4"]
    assert [row.task for row in store.calls(model="m1")] == ["t1", "t3", "t5"]
    assert [row.task for row in store.calls(since_ns=START_NS + 2, until_ns=START_NS + 4)] == ["t2", "t3"]
    assert list(store.calls(outcome="error")) == []
    assert len(list(store.calls(session="s"))) == store.call_count() == 6
    assert store.tasks() == [f"t{n}" for n in range(6)]


def test_evidence_window_and_tasks(store: SqliteStore) -> None:
    """Evidence can be limited to hours and to tasks."""
    store.write([make_call("a"), make_call("b"), make_call("a", started_at_ns=START_NS + HOUR_NS)])
    hour = START_NS // HOUR_NS * 3600
    assert [row.key.bucket for row in store.evidence(tasks=["a"])] == [hour, hour + 3600]
    assert [row.key.task for row in store.evidence(since=hour, until=hour + 3600)] == ["a", "b"]


def test_hostile_names_are_kept_as_data(store: SqliteStore) -> None:
    """NUL, quotes, lone surrogates and huge names are stored without harm, others of the batch unharmed."""
    names = ["a\x00b", "x'); DROP TABLE calls;--", "\ud800broken", "n" * 100_000, "日本語 🎉"]
    store.write([make_call(name, answer=Answer(id=name, finish_reasons=(name,))) for name in names])
    read = [row.task for row in store.calls()]
    assert read == ["a\x00b", "x'); DROP TABLE calls;--", "?broken", "n" * 100_000, "日本語 🎉"]
    assert {row.key.task for row in store.evidence()} == set(read)


def test_files_are_the_owners_alone(store: SqliteStore) -> None:
    """The folder is 0700, the file 0600, and git ignores the folder."""
    store.write([make_call()])
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700
    assert (store.path.parent / ".gitignore").read_text() == "*\n"


def test_reader_beside_a_writer(store: SqliteStore) -> None:
    """A second connection reads what is committed while the first goes on writing."""
    store.write([make_call()])
    with SqliteStore.open(store.path, read_only=True) as reader:
        assert reader.call_count() == 1
        store.write([make_call()])
        assert reader.call_count() == 2
        with pytest.raises(StoreError):
            reader.write([make_call()])


def test_missing_store_says_what_to_do(tmp_path: Path) -> None:
    """Reading where nothing was ever recorded explains how to begin."""
    with pytest.raises(StoreError, match="no store here yet"):
        SqliteStore.open(tmp_path / "none.db", read_only=True)


@pytest.mark.parametrize("kind", ["folder", "under-a-file", "not-a-database", "another-program", "newer"])
def test_unusable_files_are_refused_with_words(tmp_path: Path, kind: str) -> None:
    """A path that cannot be a store raises a StoreError naming the path."""
    path = tmp_path / "tierwise.db"
    if kind == "folder":
        path.mkdir()
    elif kind == "under-a-file":
        (tmp_path / "file").write_text("x")
        path = tmp_path / "file" / "tierwise.db"
    elif kind == "not-a-database":
        path.write_bytes(b"this is no database at all" * 100)
    else:
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE other (x)")
        if kind == "newer":
            connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
            connection.execute("PRAGMA user_version = 99")
        connection.close()
    with pytest.raises(StoreError, match=str(path.name)):
        SqliteStore.open(path)


def test_locked_store_refuses_the_whole_batch_and_takes_it_later(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While another connection holds the lock nothing is written; the retried batch is there exactly once."""
    monkeypatch.setattr("tierwise.evidence.sqlite._BUSY_MS", 50)
    store.close()
    holder = sqlite3.connect(store.path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    batch = [make_call() for _ in range(3)]
    with pytest.raises(StoreError, match="locked by another process"):
        store.write(batch)
    holder.execute("ROLLBACK")
    holder.close()
    store.write(batch)
    assert store.call_count() == 3


def test_full_disk_is_named(store: SqliteStore) -> None:
    """A real SQLITE_FULL leaves nothing of the batch and says that the disk is full."""
    store.write([make_call()])
    with store._used() as connection:
        connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0] + 1}")
    with pytest.raises(StoreError, match="disk is full"):
        store.write([make_call("t" * 5_000) for _ in range(50)])
    assert store.call_count() == 1


def test_retention_prunes_rows_and_keeps_evidence(tmp_path: Path) -> None:
    """Rows older than the retention go, counted; the hourly evidence stays."""
    now = [START_NS / 1e9 + 40 * 86400]
    with SqliteStore.open(tmp_path / "s.db", clock=lambda: now[0]) as store:
        store.write([make_call(), make_call(started_at_ns=int(now[0] * 1e9))])
        now[0] += 7200
        store.write([make_call(started_at_ns=int(now[0] * 1e9))])
        assert store.call_count() == 2
        assert store.health().pruned == 1
        assert sum(row.evidence.n for row in store.evidence()) == 3


def test_size_limit_prunes_the_oldest(tmp_path: Path) -> None:
    """Beyond the size limit the oldest rows go."""
    with SqliteStore.open(tmp_path / "s.db", max_bytes=1, clock=lambda: START_NS / 1e9) as store:
        store.write([make_call(started_at_ns=START_NS + n) for n in range(100)])
        assert store.prune() == 100
        assert sum(row.evidence.n for row in store.evidence()) == 100


def test_repricing_follows_into_the_evidence(store: SqliteStore) -> None:
    """New rates change the costs of calls and of their hours; the tokens stay."""
    store.write([make_call(cost=None), make_call(outcome="empty")])
    assert store.unpriced_models() == [("openai", "gpt-5-mini-2025", 1)]
    done = store.reprice(lambda row: flat_rates(input=10.0, output=20.0))
    each = (100 * 10 + 50 * 20) / 1e6
    assert (done.calls, done.rebuilt, done.left) == (2, 1, 0)
    assert [row.cost_usd for row in store.calls()] == [pytest.approx(each)] * 2
    (row,) = store.evidence()
    assert row.evidence.cost_sum == pytest.approx(2 * each)
    assert row.evidence.cost_success_sum == pytest.approx(each)
    assert store.unpriced_models() == []


def test_health_counts(store: SqliteStore) -> None:
    """`health` shows sizes, counters and integrity."""
    store.write([make_call()])
    store.count("dropped", 4)
    health = store.health()
    assert (health.calls, health.dropped, health.intact, health.schema_version) == (1, 4, True, schema.VERSION)


def test_four_processes_with_four_threads_each_lose_nothing(tmp_path: Path) -> None:
    """Every call of 16 writers in 4 processes is there once, and the evidence is exact."""
    path = str(tmp_path / "s.db")
    context = multiprocessing.get_context("spawn")
    running = [context.Process(target=write_many, args=(path, process, 4, 8)) for process in range(4)]
    for one in running:
        one.start()
    for one in running:
        one.join(60)
        assert one.exitcode == 0
    with SqliteStore.open(path) as store:
        ids = [row.response_id for row in store.calls()]
        assert len(ids) == len(set(ids)) == 4 * 4 * 8 * 10
        assert sorted((row.key.candidate, row.evidence.n) for row in store.evidence()) == [
            (f"p{n}", 320) for n in range(4)
        ]


def test_a_killed_writer_leaves_a_sound_store(tmp_path: Path) -> None:
    """After SIGKILL in the middle of writing the store opens, is intact, and holds whole batches with their evidence."""
    path = tmp_path / "s.db"
    context = multiprocessing.get_context("spawn")
    writer = context.Process(target=write_for_ever, args=(str(path),))
    writer.start()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if path.exists():
            try:
                with SqliteStore.open(path, read_only=True) as reader:
                    if reader.call_count() >= 500:
                        break
            except StoreError:
                pass
        time.sleep(0.05)
    assert writer.pid is not None
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    with SqliteStore.open(path) as store:
        number = store.call_count()
        assert store.health().intact
        assert number >= 500
        assert number % 50 == 0
        assert [row.evidence.n for row in store.evidence()] == [number]


def test_a_forked_child_uses_its_own_connection(store: SqliteStore) -> None:
    """Parent and child write to one store after a fork without touching each other's connection."""
    store.write([make_call("parent")])
    child = os.fork()
    if child == 0:
        status = 1
        try:
            store.write([make_call("child")])
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    store.write([make_call("parent")])
    assert sorted(row.task for row in store.calls()) == ["child", "parent", "parent"]
    assert store.health().intact


def test_the_first_schema_still_opens(tmp_path: Path) -> None:
    """A store written with schema version 1 opens and gives its rows."""
    path = tmp_path / "old.db"
    connection = sqlite3.connect(path)
    connection.executescript((Path(__file__).parent / "fixtures" / "store-v1.sql").read_text(encoding="utf-8"))
    connection.close()
    with SqliteStore.open(path) as store:
        (row,) = store.calls()
        assert (row.task, row.outcome, row.input_tokens) == ("summary", "success", 100)
        assert store.evidence() == [EvidenceRow(key=key_of(row.to_call()), evidence=Evidence.of_call(row.to_call()))]
