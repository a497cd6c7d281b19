"""Canonical bytes: one recommendation, one text, whatever the process, the order of rows or the hash seed."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.synthetic import after, history, hours, policy, runs
from tierwise.core.decide import decide
from tierwise.core.evidence import Evidence, EvidenceRow
from tierwise.core.policy import GuardrailMetric, TaskPolicy
from tierwise.core.recommendation import canonical_json, json_value
from tierwise.core.route import Route

ROUTE = Route(task="summary", primary="dear", backoff={"x": 1, "y": 2}, epochs={"dear": "e1", "cheap": "e1"})
LIMITS = (
    GuardrailMetric(metric="success_rate", op=">=", limit=0.8),
    GuardrailMetric(metric="latency_p95", op="<=", limit=12.0),
)
SCRIPT = """
import sys
from core.test_recommendation import ROUTE, example, wanted
from core.synthetic import after
from tierwise.core.decide import decide
sys.stdout.buffer.write(decide(example(), wanted(), ROUTE, after(100)).canonical_bytes())
"""


def example() -> list[EvidenceRow]:
    """Rows with awkward floats and several outcomes."""
    looks = history(random.Random(5), {"dear": (0.9, 0.03), "cheap": (0.92, 0.01)}, looks=30, per_look=10)  # noqa: S311
    return [row for look in looks for row in look] + hours("dear", runs(3, 2, failure="json_fenced"), 5, first=40)


def wanted() -> TaskPolicy:
    """A policy with guardrails and a schema, whose mapping has an order of its own."""
    return policy("cheap", "dear", guardrails=LIMITS, schema={"type": "object", "properties": {"b": {}, "a": {}}})


def test_two_processes_with_different_hash_seeds_give_the_same_bytes() -> None:
    """Nothing depends on the order of sets or hashes."""
    found = set()
    root = Path(__file__).parents[1]
    for seed in ("1", "4242"):
        environment = os.environ | {
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join([str(root), str(root.parent / "src"), os.environ.get("PYTHONPATH", "")]),
        }
        done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, check=True)
        found.add(done.stdout)
    assert found == {decide(example(), wanted(), ROUTE, after(100)).canonical_bytes()}


def test_order_of_rows_does_not_matter() -> None:
    """Shuffled evidence is the same evidence."""
    rows = example()
    first = decide(rows, wanted(), ROUTE, after(100)).canonical_bytes()
    random.Random(3).shuffle(rows)  # noqa: S311
    assert decide(rows, wanted(), ROUTE, after(100)).canonical_bytes() == first


def test_input_hash_changes_with_every_input() -> None:
    """Evidence, policy, route and time all count."""
    base = decide(example(), wanted(), ROUTE, after(100))
    others = [
        decide(example()[1:], wanted(), ROUTE, after(100)),
        decide(example(), replace(wanted(), margin=0.04), ROUTE, after(100)),
        decide(example(), wanted(), replace(ROUTE, since=1), after(100)),
        decide(example(), wanted(), None, after(100)),
        decide(example(), wanted(), ROUTE, after(100) + 1),
    ]
    hashes = {base.input_hash, *(other.input_hash for other in others)}
    assert len(hashes) == 6


def test_document_has_the_documented_fields_and_no_infinities() -> None:
    """Strict JSON, floats at ten significant digits, null for what has no number."""
    found = decide(hours("dear", runs(10, 0, cost=1 / 3), 12), policy("dear", "cheap"), None, after(100))
    document = json.loads(found.canonical_bytes(), parse_constant=pytest.fail)
    assert document == json.loads(json.dumps(found.to_json()))
    assert {"task", "verdict", "current", "primary", "fallbacks", "ladder", "grade", "reasons", "candidates"} <= set(
        document
    )
    assert document["candidates"][0]["cost_per_success_usd"] is None
    assert document["candidates"][0]["cost_per_call_usd"] == 0.3333333333


def test_reasons_are_sentences_with_numbers() -> None:
    """Every reason ends as a sentence and none shows a raw infinity."""
    found = decide(example(), wanted(), ROUTE, after(100))
    assert found.reasons
    for reason in found.reasons:
        assert reason.text.endswith(".")
        assert not {"inf", "nan"} & set(reason.text.replace(",", " ").split())


def test_values_that_json_does_not_know_are_refused() -> None:
    """A set has no canonical order."""
    with pytest.raises(TypeError, match="set"):
        canonical_json({"a": {1, 2}})
    assert json_value(float("nan")) is None


COUNTS = st.integers(-1, 40)
FLOATS = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.floats(0, 1))
WILD = st.builds(
    Evidence,
    n=COUNTS,
    successes=COUNTS,
    priced=COUNTS,
    priced_successes=COUNTS,
    cost_sum=FLOATS,
    cost_sq_sum=FLOATS,
    cost_success_sum=FLOATS,
    outcomes=st.dictionaries(st.sampled_from(["success", "error", "rejected"]), COUNTS),
    json_forms=st.dictionaries(st.sampled_from(["plain", "fenced"]), COUNTS),
    check_score_sum=FLOATS,
    check_count=COUNTS,
    accepted=COUNTS,
    rejected=COUNTS,
)


@given(st.lists(st.tuples(st.sampled_from(["dear", "cheap", "\ud800odd"]), st.integers(0, 14), WILD), max_size=25))
def test_no_evidence_makes_a_decision_raise(parts: list[tuple[str, int, Evidence]]) -> None:
    """Whatever the sums hold there is a verdict, and its bytes are strict JSON."""
    rows = [row for name, hour, evidence in parts for row in hours(name, evidence, 1, first=hour)]
    limits = tuple(
        GuardrailMetric(metric=metric, op="<=", limit=0.5)
        for metric in ("success_rate", "check_score", "cost_per_success", "acceptance_rate", "output_tokens")
    )
    for kind in (policy("cheap", "dear"), policy("cheap", "dear", guardrails=limits, min_runs=1, min_buckets=1)):
        found = decide(rows, kind, None, after(100))
        json.loads(found.canonical_bytes(), parse_constant=pytest.fail)
