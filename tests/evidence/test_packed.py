"""Packed hours: never stale, never different from the rows, whoever changes them and whenever they were packed."""

from __future__ import annotations

import json
import multiprocessing
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.calls import START_NS, make_call
from support.writers import write_many
from tierwise.advisor.plan import policy_for
from tierwise.core.columns import TaskEvidence
from tierwise.core.decide import decide
from tierwise.core.evidence import HOUR_S, Evidence, Key
from tierwise.evidence import SqliteStore, packing, reading, upkeep
from tierwise.evidence.packed import FORMAT, Block, encode
from tierwise.evidence.rollup import values_of
from tierwise.evidence.schema import EVIDENCE_COLUMNS

WEEK = 2_800 * packing.WEEK_S
"""The start of a week."""
NOW = WEEK + 16 * packing.DAY_S + 10 * HOUR_S
_PUT = (
    f"INSERT OR REPLACE INTO evidence ({', '.join(EVIDENCE_COLUMNS)}) VALUES ({', '.join('?' * len(EVIDENCE_COLUMNS))})"  # noqa: S608
)
LATENCY = (0,) * 8 + (3, 1) + (0,) * 23
PLAIN = Evidence(
    n=4, successes=3, priced=4, priced_successes=3, cost_sum=0.004, cost_sq_sum=5e-6, cost_success_sum=0.003,
    outcomes={"success": 3, "error": 1}, tokens={"input": 70_000, "output": 90}, latency=LATENCY, latency_sum_s=2.5,
)  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with SqliteStore.open(tmp_path / "s.db", clock=lambda: float(NOW)) as opened:
        yield opened


def _key(hour: int, candidate: str = "a", **changes: Any) -> Key:
    place: dict[str, Any] = {
        "epoch": "e",
        "arm": "explore",
        "rung": 0,
        "grade": "randomised",
        "bucket": WEEK + hour * HOUR_S,
    }
    return Key(task="t", candidate=candidate, **(place | changes))


def _put(store: SqliteStore, *rows: tuple[Key, Evidence]) -> None:
    with store._transaction() as connection:
        connection.executemany(_PUT, (values_of(key, evidence) for key, evidence in rows))


def _spans(store: SqliteStore) -> list[tuple[int, int]]:
    """What is packed, in hours from the start of the first week."""
    with store._used() as connection:
        found = connection.execute("SELECT since, until FROM packed ORDER BY task, since").fetchall()
    return [((since - WEEK) // HOUR_S, (until - WEEK) // HOUR_S) for since, until in found]


def _told(evidence: TaskEvidence) -> dict[Any, Any]:
    """Everything that can be read of evidence, numbers with their types."""
    return {
        identity: (list(series.slots), list(series.buckets), {name: repr(series.column(name)) for name in series.names})
        for identity, series in evidence.series.items()
    } | {"digest": evidence.digest(), "invalid": evidence.invalid, "order": list(evidence.series)}


def _both(store: SqliteStore, since: int | None = None, until: int | None = None) -> tuple[TaskEvidence, TaskEvidence]:
    """The evidence as it is read, and as it is read without packed rows."""
    with store._used() as connection:
        mixed = reading.task_evidence(connection, "t", since, until)
        connection.execute("BEGIN")
        connection.execute("DELETE FROM packed")
        plain = reading.task_evidence(connection, "t", since, until)
        connection.execute("ROLLBACK")
    return mixed, plain


def _assert_same(store: SqliteStore, since: int | None = None, until: int | None = None) -> None:
    mixed, plain = _both(store, since, until)
    assert _told(mixed) == _told(plain)


def test_days_become_weeks_and_today_grows(store: SqliteStore) -> None:
    """A day, today's hours that are over, and seven days in one; the hour that just ended is left alone."""
    _put(store, *((_key(hour), PLAIN) for hour in range(16 * 24 + 10)))
    assert store.pack() == 16 + 1 + 2
    assert _spans(store) == [(0, 168), (168, 336), (336, 360), (360, 384), (384, 393)]
    assert store.pack() == 0
    _assert_same(store)


def test_only_hours_with_rows_are_packed(store: SqliteStore) -> None:
    """Days without evidence need no row, and bench rounds are never packed."""
    _put(store, (_key(30), PLAIN), (_key(391), PLAIN), (_key(100, session="s", round=0), PLAIN))
    store.pack()
    assert _spans(store) == [(0, 168), (384, 393)]
    _assert_same(store)


@pytest.mark.parametrize("change", ["write", "replace", "update", "move", "delete"])
def test_a_change_unpacks_its_hour_whoever_makes_it(store: SqliteStore, change: str) -> None:
    """Rows changed by any SQLite tool are read at once, other stretches stay packed, and packing repairs the rest."""
    _put(store, *((_key(hour), PLAIN) for hour in range(340, 393)))
    store.pack()
    assert _spans(store) == [(336, 360), (360, 384), (384, 393)]
    if change == "write":
        store.write([make_call("t", model="new", started_at_ns=(WEEK + 362 * HOUR_S) * 10**9)])
    else:
        with closing(sqlite3.connect(store.path, isolation_level=None)) as tool:
            at, then = WEEK + 362 * HOUR_S, WEEK + 400 * HOUR_S
            if change == "replace":
                tool.execute(_PUT, values_of(_key(362), replace(PLAIN, n=9)))
            elif change == "update":
                tool.execute("UPDATE evidence SET n = 9 WHERE bucket = ?", (at,))
            elif change == "move":
                tool.execute("UPDATE evidence SET bucket = ? WHERE bucket = ?", (then, at))
            else:
                tool.execute("DELETE FROM evidence WHERE bucket = ?", (at,))
    assert _spans(store) == [(336, 360), (384, 393)]
    _assert_same(store)
    store.pack()
    assert (360, 384) in _spans(store)
    _assert_same(store)


def test_windows_cut_what_is_packed(store: SqliteStore) -> None:
    """A window that begins and ends inside packed stretches holds exactly its rows."""
    odd = replace(PLAIN, tokens={"input": -1}, json_forms={"fenced": 2})
    _put(store, *((_key(hour), odd if hour == 20 else PLAIN) for hour in range(392)))
    _put(store, *((_key(hour, "b"), replace(PLAIN, retries=hour // 50)) for hour in range(0, 392, 7)))
    store.pack()
    for since, until in ((20, 21), (21, 30), (167, 169), (100, None), (None, 350), (500, 600)):
        first = None if since is None else WEEK + since * HOUR_S
        _assert_same(store, first, None if until is None else WEEK + until * HOUR_S)


EXTREMES = {
    "huge counts": replace(PLAIN, tokens={"input": 1 << 80, "output": (1 << 63) - 1}, retries=(1 << 32) + 5),
    "fewer than none": Evidence(successes=-3, rejected=3, priced_successes=-3, cost_success_sum=-0.003),
    "negative zero": replace(PLAIN, check_score_sum=-0.0),
    "pairs": replace(PLAIN, pairs={"b": (1, 0, 2, 1, 4, 0.001, 0.002, 1e-6, 0.0, 2e-6, 0, 0.001, 0.0, 0, 0)}),
    "not to be believed": replace(PLAIN, latency=(1, 2)),
    "nothing": Evidence(),
    "hostile names": replace(PLAIN, outcomes={"\x00": 1, "a\"'<b>": 2, "日本": 3}),
}


@pytest.mark.parametrize("kind", EXTREMES)
def test_numbers_come_back_as_they_were(store: SqliteStore, kind: str) -> None:
    """Counts beyond 64 bits, negative sums and zeros, pair sums and rows that cannot be believed survive packing."""
    _put(store, (_key(3), PLAIN), (_key(4), EXTREMES[kind]), (_key(5, "b"), EXTREMES[kind]), (_key(390), PLAIN))
    store.pack()
    assert len(_spans(store)) == 2
    _assert_same(store)
    _assert_same(store, WEEK + 4 * HOUR_S, WEEK + 5 * HOUR_S)


def test_numbers_of_the_wrong_type_stay_what_they_are(store: SqliteStore) -> None:
    """A real number that another tool wrote into a column of whole numbers is not rounded."""
    _put(store, *((_key(hour), PLAIN) for hour in range(10)))
    with closing(sqlite3.connect(store.path)) as tool:
        tool.execute("UPDATE evidence SET retries = 1.5, tokens = '{\"input\": 2.5}' WHERE bucket = ?", (WEEK,))
        tool.commit()
    store.pack()
    _assert_same(store)


def test_a_packed_row_of_another_version_is_passed_over(store: SqliteStore) -> None:
    """What cannot be understood is read from the rows."""
    _put(store, *((_key(hour), PLAIN) for hour in range(10)))
    store.pack()
    whole = _told(_both(store)[0])
    with closing(sqlite3.connect(store.path)) as tool:
        tool.execute("UPDATE packed SET data = ?", (b"tw9\n" + b"?" * 100,))
        tool.commit()
    assert _told(_both(store)[0]) == whole
    with pytest.raises(ValueError, match="unknown form"):
        Block(b"tw9\n")


def test_the_form_is_the_documented_one(store: SqliteStore) -> None:
    """The same bytes on every machine: little-endian numbers in the narrowest type behind a header of JSON."""
    _put(store, (_key(0), PLAIN), (_key(1), replace(PLAIN, tokens={"input": 5})))
    data = encode(_both(store)[0])
    length = int.from_bytes(data[4:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    assert (data[:4], header["grids"]) == (FORMAT, [[WEEK, WEEK + HOUR_S]])
    assert header["series"] == [["a", "e", "explore", 0, "randomised", "", 0]]
    code, offset, size, who = header["columns"]["tokens.input"]
    assert (code, who, body[offset : offset + size]) == ("I", None, (70_000).to_bytes(4, "little") + b"\5\0\0\0")
    assert header["columns"]["n"][0] == "B"
    assert "retries" not in header["columns"]


def test_writers_pack_once_an_hour_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour after the first batch a writer begins, a stretch or a few milliseconds a batch, until all is packed."""
    monkeypatch.setattr(upkeep, "PACKING_S", 0.0)
    now = [START_NS / 1e9]
    with SqliteStore.open(tmp_path / "s.db", clock=lambda: now[0]) as store:
        _put(store, *((_key(hour), PLAIN) for hour in range(5 * 24)))
        store.write([make_call("t", started_at_ns=int(now[0]) * 10**9)])
        assert _spans(store) == []
        now[0] += 3_700
        packed = []
        for _ in range(12):
            store.write([make_call("t", started_at_ns=int(now[0]) * 10**9)])
            packed.append(set(_spans(store)))
        assert packed[0] == set()
        assert all(len(after - before) <= 1 for before, after in pairwise(packed))
        assert packed[-1] == packed[-2] != set()
        _assert_same(store)


@pytest.mark.parametrize("damage", ["outcomes = '['", "outcomes = '[]'", "n = 'many'", "pairs = '{\"b\": 1}'"])
def test_a_damaged_row_stops_neither_writing_nor_packing(tmp_path: Path, damage: str) -> None:
    """A row that another tool broke is left unpacked; calls go on being written, and other days are packed."""
    now = [float(NOW)]
    with SqliteStore.open(tmp_path / "s.db", clock=lambda: now[0]) as store:
        _put(store, *((_key(hour), PLAIN) for hour in (250, 300, 340)))
        with closing(sqlite3.connect(store.path)) as tool:
            tool.execute(f"UPDATE evidence SET {damage} WHERE bucket = ?", (WEEK + 300 * HOUR_S,))  # noqa: S608
            tool.commit()
        for _ in range(5):
            store.write([make_call("u", started_at_ns=NOW * 10**9)])
            now[0] += 3_700
        store.pack()
        assert store.call_count() == 5
        with store._used() as connection:
            found = connection.execute("SELECT since FROM packed WHERE task = 't' ORDER BY since").fetchall()
        assert [(since - WEEK) // HOUR_S for (since,) in found] == [240, 336]


def test_packing_beside_writers_loses_nothing(tmp_path: Path) -> None:
    """While two processes write the hours that a third packs, what is read at the end is every row."""
    path = tmp_path / "s.db"
    SqliteStore.open(path).close()
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(str(path), number, 2, 10)) for number in (1, 2)]
    for writer in writers:
        writer.start()
    with SqliteStore.open(path, clock=lambda: START_NS / 1e9 + 90_000) as packer:
        while any(writer.is_alive() for writer in writers):
            packer.pack()
        for writer in writers:
            writer.join()
        packer.pack()
        (made,) = packer.evidence_by_task()
        assert sum(sum(series.column("n")) for series in made.series.values()) == 2 * 2 * 10 * 10
        with packer._used() as connection:
            assert connection.execute("SELECT count(*) FROM packed").fetchone()[0] == 1


def _evidence() -> st.SearchStrategy[Evidence]:
    def build(values: tuple[Any, ...]) -> Evidence:
        n, good, cost, tokens, retries, form, place, refused = values
        good = min(n, good)
        latency = [0] * 33
        latency[place] = n
        return Evidence(
            n=n, successes=good, priced=n, priced_successes=good, cost_sum=cost * n, cost_sq_sum=cost * cost * n,
            cost_success_sum=cost * good, outcomes={"success": good, "error": n - good}, tokens={"input": tokens},
            retries=-1 if refused else retries, json_forms={form: n} if form else {}, latency=tuple(latency),
            latency_sum_s=n * cost,
        )  # fmt: skip

    return st.tuples(
        st.integers(0, 300), st.integers(0, 300), st.floats(0, 2), st.integers(0, 1 << 40), st.integers(0, 3),
        st.sampled_from(["", "plain", "fenced"]), st.integers(0, 32), st.integers(0, 9).map(lambda one: one == 0),
    ).map(build)  # fmt: skip


_STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("put"), st.lists(st.tuples(st.integers(0, 400), st.sampled_from("abc"), _evidence()), max_size=12)
        ),
        st.tuples(st.just("pack"), st.integers(0, 400)),
        st.tuples(st.just("drop"), st.integers(0, 400)),
        st.tuples(st.just("round"), st.integers(0, 5)),
    ),
    min_size=2,
    max_size=8,
)


@settings(max_examples=25, deadline=None)
@given(steps=_STEPS, window=st.tuples(st.integers(0, 400), st.integers(0, 400)))
def test_packed_or_not_the_evidence_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Any]], window: tuple[int, int]
) -> None:
    """Whatever is written, changed and packed in between: same numbers, same digest, same decision."""
    now = [float(NOW)]
    with SqliteStore.open(tmp_path_factory.mktemp("packed") / "s.db", clock=lambda: now[0]) as store:
        for kind, what in steps:
            if kind == "put":
                _put(store, *((_key(hour, candidate), evidence) for hour, candidate, evidence in what))
            elif kind == "pack":
                now[0] = WEEK + what * HOUR_S + 1.0
                store.pack()
            elif kind == "round":
                _put(store, (_key(50 + what, session="s", round=what), PLAIN))
            else:
                with store._transaction() as connection:
                    connection.execute("DELETE FROM evidence WHERE bucket >= ?", (WEEK + what * HOUR_S,))
        _assert_same(store)
        _assert_same(store, WEEK + min(window) * HOUR_S, WEEK + max(window) * HOUR_S)
        mixed, plain = _both(store)
        policy = policy_for("t", None, plain)
        assert decide(mixed, policy, None, NOW).to_json() == decide(plain, policy, None, NOW).to_json()
