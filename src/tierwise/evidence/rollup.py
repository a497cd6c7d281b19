"""Evidence as rows of the `evidence` table: summing a batch, merging it in, summing again from the call rows."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any, Final

from tierwise.core.call import Call, Run
from tierwise.core.evidence import HOUR_S, Evidence, EvidenceBuilder, EvidenceRow, Key, bucket_of, key_of, key_of_run
from tierwise.evidence.rows import SELECT_CALLS, SELECT_RUNS, call_row, clean_values, run_row
from tierwise.evidence.schema import COUNT_COLUMNS, EVIDENCE_COLUMNS, JSON_COLUMNS, KEY_COLUMNS, SUM_COLUMNS

SELECT_EVIDENCE: Final = f"SELECT {', '.join(EVIDENCE_COLUMNS)} FROM evidence"  # noqa: S608 - names of ours
_TASKS: Final = """
    WITH RECURSIVE found (task) AS (
        SELECT min(task) FROM evidence
        UNION ALL SELECT (SELECT min(task) FROM evidence WHERE task > found.task) FROM found WHERE found.task IS NOT NULL
    ) SELECT task FROM found WHERE task IS NOT NULL
"""
_BY_KEY: Final = SELECT_EVIDENCE + " WHERE " + " AND ".join(f"{name} = ?" for name in KEY_COLUMNS)
_plain: Final = attrgetter(*COUNT_COLUMNS, *SUM_COLUMNS)
_key_values: Final = attrgetter(*KEY_COLUMNS)
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
_UPSERT: Final = (
    f"INSERT OR REPLACE INTO evidence ({', '.join(EVIDENCE_COLUMNS)}) "  # noqa: S608 - names of ours
    f"VALUES ({', '.join('?' * len(EVIDENCE_COLUMNS))})"
)


def sum_up(calls: Iterable[Call], runs: Iterable[Run]) -> dict[Key, Evidence]:
    """The evidence of a batch, by key."""
    builders: dict[Key, EvidenceBuilder] = {}
    known: dict[tuple[Any, ...], EvidenceBuilder] = {}
    for call in calls:
        context = call.context
        # The fields of `Key`, in a form that costs less to make for every call.
        place = (
            context.name, call.candidate, call.epoch, call.arm, call.rung, call.grade, bucket_of(call.started_at_ns),
            context.session, context.round,
        )  # fmt: skip
        builder = known.get(place)
        if builder is None:
            builder = known[place] = builders.setdefault(key_of(call), EvidenceBuilder())
        builder.add_call(call)
    for run in runs:
        builders.setdefault(key_of_run(run), EvidenceBuilder()).add_run(run)
    return {key: builder.build() for key, builder in builders.items()}


def merge(connection: sqlite3.Connection, found: Mapping[Key, Evidence]) -> None:
    """Add evidence to what the table holds; the caller has begun a transaction that excludes other writers."""
    for key, evidence in found.items():
        values = clean_values(_key_values(key))
        known = connection.execute(_BY_KEY, values).fetchone()
        total = evidence if known is None else evidence_row(known).evidence + evidence
        connection.execute(_UPSERT, (*values, *_evidence_values(total)))


def rebuild_cost(connection: sqlite3.Connection, key: Key) -> bool:
    """Sum one key's cost again from its rows; false when that cannot be done and nothing was changed.

    It cannot when some of the rows were pruned, or when feedback has taken successes away since.
    """
    values = clean_values(_key_values(key))
    found = connection.execute(_BY_KEY, values).fetchone()
    if found is None:
        return False
    known = evidence_row(found).evidence
    where = " WHERE task = ? AND candidate = ? AND started_at_ns >= ? AND started_at_ns < ?"
    window = (values[0], values[1], key.bucket * 10**9, (key.bucket + HOUR_S) * 10**9)
    calls = (call_row(row).to_call() for row in connection.execute(SELECT_CALLS + where, window).fetchall())
    runs = (run_row(row) for row in connection.execute(SELECT_RUNS + where, window).fetchall())
    made = sum_up((call for call in calls if key_of(call) == key), (run for run in runs if key_of_run(run) == key)).get(
        key, Evidence()
    )
    if known.rejected or made.outcomes != known.outcomes or (made.n, made.successes) != (known.n, known.successes):
        return False
    total = replace(
        known,
        priced=made.priced,
        priced_successes=made.priced_successes,
        cost_sum=made.cost_sum,
        cost_sq_sum=made.cost_sq_sum,
        cost_success_sum=made.cost_success_sum,
    )
    connection.execute(_UPSERT, (*values, *_evidence_values(total)))
    return True


def task_names(connection: sqlite3.Connection) -> list[str]:
    """The tasks that have evidence, by name: a look-up each, not a scan."""
    return [row[0] for row in connection.execute(_TASKS)]


def evidence_row(values: Sequence[Any]) -> EvidenceRow:
    """A row of evidence from the values of `EVIDENCE_COLUMNS`, as the database holds them."""
    found = dict(zip(EVIDENCE_COLUMNS, values, strict=True))
    key = Key(**{name: found.pop(name) for name in KEY_COLUMNS})
    for name in JSON_COLUMNS:
        found[name] = json.loads(found[name])
    found["latency"], found["ttft"] = tuple(found["latency"]), tuple(found["ttft"])
    if found["pairs"]:
        found["pairs"] = {name: tuple(sums) for name, sums in found["pairs"].items()}
    return EvidenceRow(key=key, evidence=Evidence(**found))


def values_of(key: Key, evidence: Evidence) -> tuple[Any, ...]:
    """The values of `EVIDENCE_COLUMNS`, as the database holds them."""
    return (*_key_values(key), *_evidence_values(evidence))


def _evidence_values(evidence: Evidence) -> tuple[Any, ...]:
    return (*_plain(evidence), *(_told(getattr(evidence, name)) for name in JSON_COLUMNS))


def _told(part: object) -> str:
    return _encode(part) if part else "[]" if isinstance(part, tuple | list) else "{}"
