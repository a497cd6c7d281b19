"""Verdicts in the store: each lands in the hour of its call, whenever and however often it comes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.calls import START_NS, make_call
from tierwise.core.call import Call, Run
from tierwise.core.cost import Cost
from tierwise.core.errors import StoreError
from tierwise.core.evidence import Evidence, Key, key_of, key_of_run
from tierwise.core.receipt import Receipt, Verdict, receipt_of
from tierwise.evidence.sqlite import SqliteStore

DAY_NS = 86_400 * 10**9
GOOD = make_call(span_id=1, trace_id=1)
BAD = make_call(span_id=2, trace_id=1, outcome="truncated", started_at_ns=START_NS + 5)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """An empty store."""
    with SqliteStore.open(tmp_path / "t.db", retention_s=400 * 86_400, clock=lambda: START_NS / 1e9 + 100) as opened:
        yield opened


def verdict(of: Call | Receipt, accepted: bool | None = False, *, at: int = 1, **changes: Any) -> Verdict:
    """A verdict on a call, given `at` nanoseconds after it."""
    receipt = of if isinstance(of, Receipt) else receipt_of(of)
    return Verdict(receipt=receipt, accepted=accepted, at_ns=START_NS + at, **changes)


def evidence(store: SqliteStore) -> dict[Key, Evidence]:
    """All evidence of a store by key."""
    return {row.key: row.evidence for row in store.evidence()}


def run_of(calls: int = 2, **changes: Any) -> tuple[list[Call], Run]:
    """A run of several calls that ended well, and its row."""
    made = [
        make_call(run_id="r", rung=rung, span_id=10 + rung, model=f"m{rung}", started_at_ns=START_NS + rung)
        for rung in range(calls)
    ]
    first = made[0]
    fields: dict[str, Any] = {
        "run_id": "r", "task": "summary", "candidate": "m0", "epoch": first.epoch, "arm": first.arm,
        "grade": first.grade, "started_at_ns": START_NS, "duration_s": 3.0, "calls": calls, "success": True,
        "outcome": "success", "cost_usd": 0.001 * calls, "provider": "openai",
    }  # fmt: skip
    return made, Run(**(fields | changes))


def test_a_rejection_takes_the_calls_success_away(store: SqliteStore) -> None:
    """A rejected answer was no success: in the hour of its call, with the call's own cost."""
    store.write([GOOD, BAD])
    store.write([verdict(GOOD), verdict(BAD)])
    found = evidence(store)[key_of(GOOD)]
    assert (found.n, found.successes, found.rejected, found.accepted) == (2, 0, 2, 0)
    assert (found.priced, found.priced_successes, found.cost_success_sum) == (2, 0, 0.0)
    assert found.cost_sum == pytest.approx(0.002)


def test_an_acceptance_counts_and_changes_nothing_else(store: SqliteStore) -> None:
    """An accepted answer adds to the acceptance rate alone, even one that the outcome called a failure."""
    store.write([GOOD, BAD])
    before = evidence(store)[key_of(GOOD)]
    store.write([verdict(GOOD, True), verdict(BAD, True)])
    assert evidence(store)[key_of(GOOD)] == replace(before, accepted=2)


def test_days_later_it_lands_in_the_hour_of_its_call(store: SqliteStore) -> None:
    """The bucket is the call's, not the verdict's."""
    store.write([GOOD, make_call(started_at_ns=START_NS + 30 * DAY_NS)])
    store.write([verdict(GOOD, at=30 * DAY_NS)])
    assert [found.rejected for found in evidence(store).values()] == [1, 0]


def test_the_same_verdict_again_changes_nothing(store: SqliteStore) -> None:
    """However often it is given, in one batch or several, by whichever receipt of the call."""
    store.write([GOOD, verdict(GOOD)])
    before = evidence(store)
    store.write([verdict(GOOD, at=2), verdict(GOOD, at=3)])
    store.write([verdict(GOOD, at=4)])
    assert evidence(store) == before
    assert len(list(store.feedback())) == 1


def test_a_changed_verdict_replaces_the_first(store: SqliteStore) -> None:
    """Back and forth, the evidence is what the last verdict alone would have made."""
    store.write([GOOD])
    plain = evidence(store)[key_of(GOOD)]
    for at, accepted in enumerate((True, False, True, False), start=1):
        store.write([verdict(GOOD, accepted, at=at)])
        found = evidence(store)[key_of(GOOD)]
        assert (found.accepted, found.rejected, found.successes) == (int(accepted), int(not accepted), int(accepted))
    store.write([verdict(GOOD, True, at=9)])
    assert evidence(store)[key_of(GOOD)] == replace(plain, accepted=1)


def test_of_two_verdicts_the_later_one_counts_in_whatever_order_they_come(store: SqliteStore) -> None:
    """A verdict that was held up on its way does not undo one that was given after it."""
    store.write([GOOD, verdict(GOOD, True, at=5)])
    store.write([verdict(GOOD, False, at=3, comment="first thought")])
    (row,) = store.feedback()
    assert (row.accepted, row.comment, row.given_at_ns) == (True, "first thought", START_NS + 5)
    assert evidence(store)[key_of(GOOD)].rejected == 0


def test_it_may_come_before_its_call_is_written(store: SqliteStore) -> None:
    """Another process may be quicker than the writer: in the end the evidence is the same."""
    store.write([verdict(GOOD)])
    assert evidence(store)[key_of(GOOD)].successes == -1
    store.write([GOOD])
    found = evidence(store)[key_of(GOOD)]
    assert (found.n, found.successes, found.rejected, found.cost_success_sum) == (1, 0, 1, 0.0)


def test_it_may_come_after_its_call_was_pruned(tmp_path: Path) -> None:
    """The row may be gone: what the verdict needs stands in the receipt."""
    now = [START_NS / 1e9 + 100]
    with SqliteStore.open(tmp_path / "t.db", retention_s=86_400, clock=lambda: now[0]) as store:
        store.write([GOOD])
        now[0] += 40 * 86_400
        assert store.prune() == 1
        assert store.call_count() == 0
        store.write([verdict(GOOD, at=40 * DAY_NS)])
        found = evidence(store)[key_of(GOOD)]
        assert (found.n, found.successes, found.rejected, found.priced_successes) == (1, 0, 1, 0)


def test_a_cost_computed_again_since_is_the_one_that_counts(store: SqliteStore) -> None:
    """After repricing a rejection takes away the cost that the evidence holds now."""
    store.write([replace(GOOD, cost=Cost(amount_usd=0.004, source="catalogue"))])
    store.write([verdict(receipt_of(GOOD))])
    assert evidence(store)[key_of(GOOD)].cost_success_sum == 0.0


def test_a_run_is_judged_once_for_all_its_calls(store: SqliteStore) -> None:
    """Verdicts on different calls of a run are one verdict, under the run's key, with the run's cost."""
    calls, run = run_of()
    store.write([*calls, run])
    receipts = [receipt_of(call, run) for call in calls]
    store.write([verdict(receipts[1], at=1), verdict(receipts[0], at=2)])
    found = evidence(store)[key_of_run(run)]
    assert (found.n, found.successes, found.rejected, found.cost_success_sum) == (1, 0, 1, 0.0)
    assert len(list(store.feedback())) == 1


def test_a_run_may_be_judged_before_it_ends(store: SqliteStore) -> None:
    """The verdict waits for the run, then counts where the run does and with what it became."""
    calls, run = run_of()
    so_far = replace(run, calls=1, success=False, outcome="json_invalid", cost_usd=0.001, epoch="not priced yet")
    store.write([calls[0]])
    store.write([verdict(receipt_of(calls[0], so_far, ended=False))])
    assert not next(store.feedback()).settled
    store.write([calls[1], run])
    found = evidence(store)
    assert (found[key_of_run(run)].successes, found[key_of_run(run)].rejected) == (0, 1)
    assert found[key_of_run(run)].cost_success_sum == 0.0
    assert found[key_of_run(so_far)] == Evidence(outcomes={}, json_forms={}, tokens={})
    assert next(store.feedback()).settled


def test_a_run_that_is_stored_already_settles_an_open_receipt(store: SqliteStore) -> None:
    """A receipt taken inside the run, used after it: the stored run says what it became."""
    calls, run = run_of()
    receipt = receipt_of(calls[0], None, run_started_at_ns=START_NS, ended=False)
    store.write([*calls, run])
    store.write([verdict(receipt)])
    assert evidence(store)[key_of_run(run)].successes == 0
    assert next(store.feedback()).settled


def test_a_score_or_a_comment_alone_is_kept_and_counts_nowhere(store: SqliteStore) -> None:
    """Only accepted or rejected is evidence; a later verdict keeps the score that came before."""
    store.write([GOOD])
    before = evidence(store)
    store.write([verdict(GOOD, None, score=0.25, comment="meh \ud800")])
    assert evidence(store) == before
    store.write([verdict(GOOD, True, at=2)])
    (row,) = store.feedback()
    assert (row.accepted, row.score, row.comment) == (True, 0.25, "meh ?")


def test_calls_that_are_outside_n_can_be_judged(store: SqliteStore) -> None:
    """A cancelled answer that is rejected counts as rejected and takes no success away."""
    call = make_call(outcome="cancelled", span_id=4)
    store.write([call, verdict(call)])
    found = evidence(store)[key_of(call)]
    assert (found.n, found.successes, found.rejected) == (0, 0, 1)


def test_a_failed_batch_leaves_nothing_of_its_verdicts(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls and verdicts of a batch are one transaction; handed in again they are in once."""
    monkeypatch.setattr("tierwise.evidence.sqlite._MARK_BATCH", "no SQL")
    with pytest.raises(StoreError):
        store.write([GOOD, verdict(GOOD)])
    monkeypatch.undo()
    assert list(store.feedback()) == []
    store.write([GOOD, verdict(GOOD)])
    assert evidence(store)[key_of(GOOD)].rejected == 1


def test_rows_go_when_their_receipts_are_not_taken_any_more(tmp_path: Path) -> None:
    """The table is bounded by the lifetime of receipts; the evidence stays."""
    now = [START_NS / 1e9 + 100]
    with SqliteStore.open(tmp_path / "t.db", clock=lambda: now[0]) as store:
        store.write([GOOD, verdict(GOOD)])
        now[0] += 90 * 86_400
        store.prune()
        assert store.verdict(receipt_of(GOOD).unit) is not None
        now[0] += 2 * 86_400
        store.prune()
        assert list(store.feedback()) == []
        assert evidence(store)[key_of(GOOD)].rejected == 1


def test_verdicts_are_read_by_task_and_time(store: SqliteStore) -> None:
    """`feedback()` gives them in order of their calls, of one task, since a time."""
    calls = [make_call(f"t{n % 2}", span_id=n + 1, started_at_ns=START_NS + n) for n in range(4)]
    store.write([*calls, *(verdict(call) for call in reversed(calls))])
    assert [row.task for row in store.feedback()] == ["t0", "t1", "t0", "t1"]
    assert [row.started_at_ns for row in store.feedback(task="t1", since_ns=START_NS + 2)] == [START_NS + 3]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=12))
def test_any_order_of_calls_runs_and_verdicts_gives_the_same_evidence(
    tmp_path_factory: pytest.TempPathFactory, seed: int, given_: list[tuple[int, bool]]
) -> None:
    """Whatever comes first, in whatever batches: the evidence is that of the last verdict on each call and run."""
    members, run = run_of()
    alone = [
        make_call(span_id=20 + n, started_at_ns=START_NS + 100 + n, outcome=("success", "truncated")[n % 2])
        for n in range(4)
    ]
    units = [receipt_of(one) for one in alone]
    units += [
        receipt_of(members[0], replace(run, success=False, cost_usd=9.0), ended=False),
        receipt_of(members[1], run),
    ]
    verdicts = [verdict(units[number], accepted, at=at) for at, (number, accepted) in enumerate(given_, start=1)]
    items: list[Any] = [*alone, *members, run, *verdicts]
    rng = random.Random(seed)  # noqa: S311
    found = []
    for _ in range(2):
        rng.shuffle(items)
        path = tmp_path_factory.mktemp("order") / "t.db"
        with SqliteStore.open(path, clock=lambda: START_NS / 1e9 + 100) as store:
            size = rng.randint(1, 6)
            for start in range(0, len(items), size):
                store.write(items[start : start + size])
            found.append({key: value for key, value in evidence(store).items() if value.n})
    expected: dict[str, bool] = {}
    for one in verdicts:
        expected[one.receipt.unit] = bool(one.accepted)
    counts = [
        tuple(sum(getattr(value, name) for value in one.values()) for name in ("accepted", "rejected", "successes"))
        for one in found
    ]
    succeeded = {units[n].unit: n in (0, 2) for n in range(4)} | {units[5].unit: True}
    lost = sum(1 for unit, accepted in expected.items() if not accepted and succeeded[unit])
    wins = 2 + 1 + 1  # two of the calls alone, the run, and its second call at rung 1
    assert counts[0] == counts[1] == (sum(expected.values()), len(expected) - sum(expected.values()), wins - lost)
