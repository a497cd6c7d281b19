"""What a plan says about the evidence it stands on: prices, token counts, and the candidates of a task without a policy."""

from __future__ import annotations

from dataclasses import replace

from core.synthetic import TASK, after, hours, row, runs
from tierwise.advisor import plan, policy_for
from tierwise.core.columns import TaskEvidence
from tierwise.core.evidence import EvidenceRow
from tierwise.core.route import RouteTable

SILENT = replace(runs(4, 4, cost=None), tokens={})


def notes_of(rows: list[EvidenceRow]) -> str:
    """All notes of a plan over the rows."""
    return "\n".join(plan(rows, None, RouteTable(), after(100)).notes)


def test_a_model_without_a_price_is_told_from_streams_without_usage() -> None:
    """Tokens and no cost: the price is missing. No tokens: the stream sent none, and no price would help."""
    unpriced, silent = row("mystery", runs(3, 3, cost=None)), row("streamed", SILENT)
    said = notes_of([unpriced, silent])
    assert "no price for mystery: 3 runs" in said
    assert "tierwise prices missing" in said
    assert "no token counts from streamed (streams without usage): 4 runs" in said
    assert "stream_usage=True" in said
    assert "include_usage" in said
    assert "no price for streamed" not in said
    coverage = plan([unpriced, silent], None, RouteTable(), after(100)).coverage
    assert (coverage.unpriced, coverage.without_tokens) == ({"mystery": 3}, {"streamed": 4})
    assert coverage.to_json()["without_tokens"] == {"streamed": 4}


def test_some_streams_of_a_priced_model_lack_tokens() -> None:
    """A model with a price has one: what is left without a cost lacks its tokens."""
    both = row("m", runs(5, 5) + SILENT)
    assert "no token counts from m (streams without usage): 4 runs" in notes_of([both])


def test_a_model_that_only_failed_is_not_listed() -> None:
    """A 404 has no tokens and needs no price."""
    failed = replace(runs(6, 0, cost=None, failure="error"), tokens={})
    assert notes_of(hours("gone", failed, 3)) == ""


def test_candidates_without_a_policy_do_not_change_with_the_traffic() -> None:
    """The default candidates are the models seen, by name, whoever leads this hour."""
    ahead, behind = row("b", runs(9, 9)), row("a", runs(2, 2))
    assert policy_for(TASK, None, TaskEvidence.of([ahead, behind], TASK)).candidates == ("a", "b")
    assert policy_for(TASK, None, TaskEvidence.of([row("b", runs(2, 2)), row("a", runs(9, 9))], TASK)).candidates == (
        "a",
        "b",
    )
