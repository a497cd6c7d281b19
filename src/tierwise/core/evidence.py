"""Evidence: mergeable sufficient statistics of one (task, candidate, epoch, arm, rung, grade) in one time bucket."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import field
from math import isfinite
from typing import Final

from tierwise.core.call import Arm, Call, Grade, Run
from tierwise.core.records import dataclass, quick

LATENCY_EDGES_S: Final[tuple[float, ...]] = (
    0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.8, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0,
    5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 12.0, 15.0, 18.0, 20.0, 25.0, 30.0, 45.0, 60.0, 90.0, 120.0,
)  # fmt: skip
"""Upper edges (inclusive) of the latency and first-chunk histograms, seconds; one more bucket holds what is above."""

HOUR_S: Final = 3600
UNCOUNTED: Final = ("cancelled", "rejected")
"""Outcomes that say nothing about the model: outside n and outside every sum but the outcome counts."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Key:
    """Where a row of evidence belongs. `bucket` is the bucket's start in Unix seconds; `round` is -1 for an hour of
    live traffic, else the number of a bench round (a bucket of its own, named by its session in `session`)."""

    task: str
    candidate: str
    epoch: str
    arm: Arm
    rung: int
    grade: Grade
    bucket: int
    session: str = ""
    round: int = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Sums over runs (n and cost, rung 0 only: charged with all calls of the run) and over first attempts (the rest).

    At rung > 0 the unit is the attempt: escalated traffic, never to be compared with first attempts.
    Cost sums run over `priced` runs only; `latency` counts first attempts in the buckets of `LATENCY_EDGES_S`.
    Everything but `outcomes` leaves `cancelled` and `rejected` calls out. `a + b` merges.
    """

    n: int = 0
    successes: int = 0
    priced: int = 0
    priced_successes: int = 0
    cost_sum: float = 0.0
    cost_sq_sum: float = 0.0
    cost_success_sum: float = 0.0
    outcomes: Mapping[str, int] = field(default_factory=dict)
    """Counts of first attempts by outcome, `cancelled` and `rejected` included (they are outside n)."""
    json_forms: Mapping[str, int] = field(default_factory=dict)
    """Counts of first attempts by JSON form, only where JSON was expected."""
    retries: int = 0
    retried: int = 0
    """First attempts with at least one SDK retry."""
    escalated: int = 0
    tokens: Mapping[str, int] = field(default_factory=dict)
    """Token sums by kind: input, output, cache_read, cache_write, reasoning."""
    latency: tuple[int, ...] = ()
    latency_sum_s: float = 0.0
    ttft: tuple[int, ...] = ()
    check_score_sum: float = 0.0
    check_count: int = 0
    accepted: int = 0
    rejected: int = 0
    pairs: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Of shadow runs, by the candidate whose prompt they shared: the sums of `pairs.PairSums`, in the order of its fields."""

    def __add__(self, other: Evidence) -> Evidence:
        """The evidence of both: associative and commutative, counts exactly, sums up to rounding.

        Raises:
            ValueError: the two histograms were built with different edges.
        """
        if not isinstance(other, Evidence):
            return NotImplemented
        return Evidence(
            n=self.n + other.n,
            successes=self.successes + other.successes,
            priced=self.priced + other.priced,
            priced_successes=self.priced_successes + other.priced_successes,
            cost_sum=self.cost_sum + other.cost_sum,
            cost_sq_sum=self.cost_sq_sum + other.cost_sq_sum,
            cost_success_sum=self.cost_success_sum + other.cost_success_sum,
            outcomes=_merge_counts(self.outcomes, other.outcomes),
            json_forms=_merge_counts(self.json_forms, other.json_forms),
            retries=self.retries + other.retries,
            retried=self.retried + other.retried,
            escalated=self.escalated + other.escalated,
            tokens=_merge_counts(self.tokens, other.tokens),
            latency=_merge_histograms(self.latency, other.latency),
            latency_sum_s=self.latency_sum_s + other.latency_sum_s,
            ttft=_merge_histograms(self.ttft, other.ttft),
            check_score_sum=self.check_score_sum + other.check_score_sum,
            check_count=self.check_count + other.check_count,
            accepted=self.accepted + other.accepted,
            rejected=self.rejected + other.rejected,
            pairs=_merge_pairs(self.pairs, other.pairs) if self.pairs or other.pairs else {},
        )

    @property
    def attempts(self) -> int:
        """Counted first attempts: the denominator of every rate over outcomes."""
        return sum(self.outcomes.values()) - sum(self.outcomes.get(name, 0) for name in UNCOUNTED)

    @staticmethod
    def of_call(call: Call) -> Evidence:
        """What one call adds under `key_of(call)`; see `EvidenceBuilder.add_call`."""
        builder = EvidenceBuilder()
        builder.add_call(call)
        return builder.build()

    @staticmethod
    def of_run(run: Run) -> Evidence:
        """What one finished run of several calls adds under `key_of_run(run)`; see `EvidenceBuilder.add_run`."""
        builder = EvidenceBuilder()
        builder.add_run(run)
        return builder.build()

    @staticmethod
    def of_feedback(*, accepted: bool, succeeded: bool, cost_usd: float | None = None) -> Evidence:
        """What one verdict of a user adds under the run's own key: a rejection takes the run's success away.

        `succeeded` says whether the run was counted as a success, `cost_usd` what it cost (`None`: unpriced).
        """
        if accepted:
            return Evidence(accepted=1)
        if not succeeded:
            return Evidence(rejected=1)
        if not _is_money(cost_usd):
            return Evidence(rejected=1, successes=-1)
        return Evidence(rejected=1, successes=-1, priced_successes=-1, cost_success_sum=-(cost_usd or 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceRow:
    """A key and its evidence, as the stores hand them to `decide`."""

    key: Key
    evidence: Evidence


class EvidenceBuilder:
    """A mutable sum of many calls, runs and rows under one key; much faster than adding `Evidence` values."""

    __slots__ = ("_counts", "_forms", "_latency", "_outcomes", "_pairs", "_sums", "_tokens", "_ttft")

    def __init__(self) -> None:
        self._counts = dict.fromkeys(_COUNTS, 0)
        self._sums = dict.fromkeys(_SUMS, 0.0)
        self._outcomes: dict[str, int] = {}
        self._forms: dict[str, int] = {}
        self._tokens: dict[str, int] = {}
        self._latency: list[int] = []
        self._ttft: list[int] = []
        self._pairs: Mapping[str, tuple[float, ...]] = {}

    def add_call(self, call: Call) -> None:
        """Add one call.

        A call without a run id is its own run. One with a run id adds first-attempt sums alone at rung 0, since its
        run counts it, and is a unit of its own under its own key at rung > 0.
        """
        _bump(self._outcomes, call.outcome, 1)
        if not call.counted:
            return
        if call.context.run_id is None or call.rung > 0:
            self._add_unit(call.outcome == "success", call.cost.amount_usd if call.cost else None)
        if call.json_form is not None:
            _bump(self._forms, call.json_form, 1)
        counts, sums = self._counts, self._sums
        if call.retries:
            counts["retries"] += call.retries
            counts["retried"] += 1
        for check in call.checks:
            counts["check_count"] += 1
            sums["check_score_sum"] += check.score
        usage = call.usage
        if usage is not None:
            for kind, tokens in zip(
                _TOKEN_KINDS,
                (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens,
                 usage.reasoning_tokens),
                strict=True,
            ):  # fmt: skip
                if tokens is not None:
                    _bump(self._tokens, kind, tokens)
        _observe(self._latency, call.duration_s)
        sums["latency_sum_s"] += call.duration_s
        if call.time_to_first_chunk_s is not None:
            _observe(self._ttft, call.time_to_first_chunk_s)
        if call.pair is not None:
            self._pairs = _merge_pairs(self._pairs, {call.pair.candidate: call.pair.sums})

    def add_run(self, run: Run) -> None:
        """Add one run of several calls: n, success and the cost of all its calls, at rung 0."""
        if run.outcome in UNCOUNTED:
            return
        self._add_unit(run.success, run.cost_usd)
        self._counts["escalated"] += run.calls > 1

    def add(self, evidence: Evidence) -> None:
        """Add evidence that was summed before."""
        for name in _COUNTS:
            self._counts[name] += getattr(evidence, name)
        for name in _SUMS:
            self._sums[name] += getattr(evidence, name)
        for mine, theirs in (
            (self._outcomes, evidence.outcomes),
            (self._forms, evidence.json_forms),
            (self._tokens, evidence.tokens),
        ):
            for name, count in theirs.items():
                _bump(mine, name, count)
        self._latency = list(_merge_histograms(tuple(self._latency), evidence.latency))
        self._ttft = list(_merge_histograms(tuple(self._ttft), evidence.ttft))
        if evidence.pairs:
            self._pairs = _merge_pairs(self._pairs, evidence.pairs)

    def build(self) -> Evidence:
        """The sum so far; the builder may go on."""
        counts, sums = self._counts, self._sums
        return Evidence(
            n=counts["n"],
            successes=counts["successes"],
            priced=counts["priced"],
            priced_successes=counts["priced_successes"],
            cost_sum=sums["cost_sum"],
            cost_sq_sum=sums["cost_sq_sum"],
            cost_success_sum=sums["cost_success_sum"],
            outcomes=dict(self._outcomes),
            json_forms=dict(self._forms),
            retries=counts["retries"],
            retried=counts["retried"],
            escalated=counts["escalated"],
            tokens=dict(self._tokens),
            latency=tuple(self._latency),
            latency_sum_s=sums["latency_sum_s"],
            ttft=tuple(self._ttft),
            check_score_sum=sums["check_score_sum"],
            check_count=counts["check_count"],
            accepted=counts["accepted"],
            rejected=counts["rejected"],
            pairs=dict(self._pairs),
        )

    def _add_unit(self, success: bool, cost_usd: float | None) -> None:
        counts, sums = self._counts, self._sums
        counts["n"] += 1
        counts["successes"] += success
        if cost_usd is None or not _is_money(cost_usd):
            return
        counts["priced"] += 1
        counts["priced_successes"] += success
        sums["cost_sum"] += cost_usd
        sums["cost_sq_sum"] += cost_usd * cost_usd
        if success:
            sums["cost_success_sum"] += cost_usd


def bucket_of(started_at_ns: int) -> int:
    """The hour that a Unix time in nanoseconds falls into, as Unix seconds of its start."""
    return started_at_ns // (HOUR_S * 1_000_000_000) * HOUR_S


def latency_index(seconds: float) -> int:
    """Which histogram bucket a duration falls into: edges are inclusive, the last bucket is above all of them."""
    return bisect_left(LATENCY_EDGES_S, seconds) if isfinite(seconds) else len(LATENCY_EDGES_S)


def key_of(call: Call, bucket: int | None = None) -> Key:
    """Where a call's evidence belongs: the hour it started in, or its bench round. `bucket` overrides the hour."""
    return Key(
        task=call.task,
        candidate=call.candidate,
        epoch=call.epoch,
        arm=call.arm,
        rung=call.rung,
        grade=call.grade,
        bucket=bucket_of(call.started_at_ns) if bucket is None else bucket,
        session=call.context.session,
        round=call.context.round,
    )


def key_of_run(run: Run, bucket: int | None = None) -> Key:
    """Where a run's evidence belongs: rung 0 of its first call's candidate, in its hour or bench round."""
    return Key(
        task=run.task,
        candidate=run.candidate,
        epoch=run.epoch,
        arm=run.arm,
        rung=0,
        grade=run.grade,
        bucket=bucket_of(run.started_at_ns) if bucket is None else bucket,
        session=run.session,
        round=run.round,
    )


_COUNTS: Final = (
    "n", "successes", "priced", "priced_successes", "retries", "retried", "escalated", "check_count", "accepted",
    "rejected",
)  # fmt: skip
_SUMS: Final = ("cost_sum", "cost_sq_sum", "cost_success_sum", "latency_sum_s", "check_score_sum")
_TOKEN_KINDS: Final = ("input", "output", "cache_read", "cache_write", "reasoning")


def _is_money(amount: float | None) -> bool:
    return amount is not None and isfinite(amount) and amount >= 0


def _bump(counts: dict[str, int], name: str, by: int) -> None:
    counts[name] = counts.get(name, 0) + by


def _observe(histogram: list[int], seconds: float) -> None:
    if not histogram:
        histogram.extend([0] * (len(LATENCY_EDGES_S) + 1))
    histogram[latency_index(seconds)] += 1


def _merge_counts(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    merged = dict(a)
    for name, count in b.items():
        merged[name] = merged.get(name, 0) + count
    return merged


def _merge_pairs(
    a: Mapping[str, tuple[float, ...]], b: Mapping[str, tuple[float, ...]]
) -> dict[str, tuple[float, ...]]:
    merged = dict(a)
    for name, sums in b.items():
        known = merged.get(name)
        merged[name] = sums if known is None else tuple(x + y for x, y in zip(known, sums, strict=True))
    return merged


def _merge_histograms(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    if not a or not b:
        return a or b
    if len(a) != len(b):
        raise ValueError(
            f"cannot merge histograms of {len(a)} and {len(b)} buckets: they were recorded with different edges; "
            "read each with the version that wrote it"
        )
    return tuple(x + y for x, y in zip(a, b, strict=True))
