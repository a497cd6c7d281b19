"""Shadow pairs: two candidates' answers to the same prompt, as mergeable sums, and what they say when compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import compress, repeat
from math import exp, inf, log
from operator import add, attrgetter, mul, sub
from typing import Final

from tierwise.core.confseq import asymptotic_half_width, log_ratio_bounds, rate_log_e, smoothed_rate_variance
from tierwise.core.records import dataclass
from tierwise.core.variance import effective_share, robust_variance

PSEUDO: Final = 4.0
"""Pseudo-pairs, one of each outcome at the mean costs, so that clean sheets keep some variance; as (s+2)/(n+4)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSums:
    """Sums over pairs: one prompt answered by the incumbent (i) and by the challenger (c). Costs in USD; `a + b` merges.

    The four counts say who succeeded, over all pairs. All other fields are over the pairs whose two costs are known; with
    them every second moment of (C_i, S_i, C_c, S_c) is. `cost_i_success_c` is the sum of C_i S_c, and so on.
    """

    both: float = 0
    only_incumbent: float = 0
    only_challenger: float = 0
    neither: float = 0
    priced: float = 0
    success_i: float = 0
    success_c: float = 0
    success_both: float = 0
    cost_i: float = 0
    cost_c: float = 0
    cost_i_sq: float = 0
    cost_c_sq: float = 0
    cost_product: float = 0
    cost_i_success_i: float = 0
    cost_i_success_c: float = 0
    cost_c_success_i: float = 0
    cost_c_success_c: float = 0

    def __add__(self, other: PairSums) -> PairSums:
        return _made(map(add, _values(self), _values(other)))

    @property
    def n(self) -> float:
        """Pairs."""
        return self.both + self.only_incumbent + self.only_challenger + self.neither

    @property
    def discordant(self) -> float:
        """Pairs in which one alone succeeded."""
        return self.only_incumbent + self.only_challenger


_Weights = tuple[float, float, float, float]
"""Of (C_i, S_i, C_c, S_c) in a weighted sum of them."""

_FIELDS: Final = tuple(PairSums.__dataclass_fields__)
_values: Final[Callable[[PairSums], tuple[float, ...]]] = attrgetter(*_FIELDS)


def _made(values: Iterable[float]) -> PairSums:
    return PairSums(**dict(zip(_FIELDS, values, strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """An estimate with bounds that hold at every look; infinite until they are known, `None` where there is no estimate."""

    point: float | None = None
    low: float = -inf
    high: float = inf


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedComparison:
    """What pairs say of a challenger. Gain as a share of the incumbent's objective, difference of success in [-1, 1]."""

    n: int
    discordant: int
    buckets: int
    enough: bool
    """Whether there are enough pairs and buckets for the asymptotic bounds, which are infinite otherwise."""
    gain: Bounds
    difference: Bounds
    better: bool
    """The challenger succeeds more often, by the exact sign test: no minimum."""
    worse: bool
    non_inferior: bool
    """Its success is not worse by more than the margin, by the sequence or exactly."""
    inferior: bool


def of_pair(
    *,
    incumbent_success: bool,
    challenger_success: bool,
    incumbent_cost_usd: float | None,
    challenger_cost_usd: float | None,
) -> PairSums:
    """The sums of one pair; a cost of `None` is unknown, and the pair then counts for success alone."""
    s_i, s_c = int(incumbent_success), int(challenger_success)
    c_i, c_c = incumbent_cost_usd, challenger_cost_usd
    counts = (s_i * s_c, s_i * (1 - s_c), (1 - s_i) * s_c, (1 - s_i) * (1 - s_c))
    if c_i is None or c_c is None:
        return PairSums(**dict(zip(_FIELDS, counts, strict=False)))
    products = (c_i * c_i, c_c * c_c, c_i * c_c, c_i * s_i, c_i * s_c, c_c * s_i, c_c * s_c)
    return _made((*counts, 1, s_i, s_c, s_i * s_c, c_i, c_c, *products))


def total_of(buckets: Iterable[PairSums]) -> PairSums:
    """All buckets merged."""
    columns = list(zip(*map(_values, buckets), strict=True))
    return _made(map(sum, columns)) if columns else PairSums()


class _Buckets:
    """The columns of the buckets that have pairs."""

    def __init__(self, buckets: Sequence[PairSums]) -> None:
        columns = list(zip(*map(_values, buckets), strict=True)) or [()] * len(_FIELDS)
        counts = list(map(add, map(add, columns[0], columns[1]), map(add, columns[2], columns[3])))
        if not all(counts):
            columns = [tuple(compress(column, counts)) for column in columns]
            counts = [count for count in counts if count]
        self.counts = counts
        self.total = _made(map(sum, columns))
        self._columns = dict(zip(_FIELDS, columns, strict=True))

    def __getitem__(self, name: str) -> Sequence[float]:
        return self._columns[name]


def compare_pairs(
    buckets: Sequence[PairSums],
    *,
    alpha: float,
    margin: float,
    min_pairs: int = 30,
    min_buckets: int = 10,
    value_of_success_usd: float | None = None,
) -> PairedComparison:
    """Compare a challenger with the incumbent on the prompts that both answered, at `alpha` over all looks.

    Prompts differ more than models do, so outcomes of a pair go together and their difference varies less than that of two
    separate samples. Difference of success and gain: the asymptotic confidence sequence of a mean of pairs
    (`confseq.asymptotic_half_width`), with a variance that is robust against correlated buckets (`variance`). Exact
    besides, without a minimum: the sign test, which is the rate sequence on the discordant pairs against 1/2; and the rate
    of pairs in which the incumbent alone succeeded, which bounds what the challenger is worse by.

    Assumes that pairs are drawn from the task's traffic whatever their outcome. `alpha` holds for each statement.

    Args:
        buckets: pairs of each bucket, in order of time.
        alpha: error probability.
        margin: by how much the challenger's success may be worse, in [0, 1].
        min_pairs: pairs below which no asymptotic bound is given.
        min_buckets: buckets with pairs below which none is given.
        value_of_success_usd: for the gain in the loss cost + V (1 - success); `None`: in cost per success.

    Raises:
        ValueError: alpha outside (0, 1).
    """
    busy = _Buckets(buckets)
    total, n = busy.total, busy.total.n
    if n <= 0:
        return PairedComparison(
            n=0, discordant=0, buckets=0, enough=False, gain=Bounds(), difference=Bounds(low=-1.0, high=1.0), better=False,
            worse=False, non_inferior=False, inferior=False,
        )  # fmt: skip
    enough = n >= max(min_pairs, 1) and len(busy.counts) >= min_buckets
    variance, share = _difference_variance(busy)
    point = (total.only_challenger - total.only_incumbent) / n
    width = asymptotic_half_width(variance, n, alpha) if enough else 2.0
    difference = Bounds(point=point, low=max(point - width, -1.0), high=min(point + width, 1.0))
    priced = enough and total.priced >= max(min_pairs, 1)
    if value_of_success_usd is None:
        gain = _cost_gain(busy, alpha, enough=priced)
    else:
        gain = _loss_gain(busy, alpha, value_of_success_usd, enough=priced)
    known = sign_log_e(total.only_challenger * share, total.discordant * share) >= -log(alpha)
    return PairedComparison(
        n=int(n),
        discordant=int(total.discordant),
        buckets=len(busy.counts),
        enough=enough,
        gain=gain,
        difference=difference,
        better=known and point > 0,
        worse=known and point < 0,
        non_inferior=difference.low > -margin or _seldom_worse(busy, margin, alpha),
        inferior=difference.high < -margin,
    )


def sign_log_e(wins: float, discordant: float) -> float:
    """ln E against "of the pairs in which one alone succeeded, each is as often the one": `confseq.rate_log_e` at 1/2.

    At least ln(1/alpha) rejects, at every look, exactly. The paired counterpart of McNemar's test.

    Raises:
        ValueError: wins outside [0, discordant].
    """
    return rate_log_e(wins, discordant, 0.5)


def paired_log_ratio_variance(total: PairSums) -> float:
    """Variance, of one pair, of ln(C_i/S_i) - ln(C_c/S_c), the logarithm of the ratio of two costs per success.

    Delta method on the joint moments: the variance of C_i/c_i - S_i/s_i - C_c/c_c + S_c/s_c, means in small letters (Deng et
    al., KDD 2018, section 3, for two dependent ratios). Four pseudo-pairs keep it above 0. Assumes independent pairs.

    Raises:
        ValueError: no pair with both costs, or a sum of costs that is not above 0.
    """
    if total.priced <= 0 or not (total.cost_i > 0 and total.cost_c > 0):
        raise ValueError("a paired cost per success needs pairs with costs above 0")
    return _variance_of(_log_ratio_weights(total), total)


def _log_ratio_weights(total: PairSums) -> _Weights:
    n = total.priced
    return (
        n / total.cost_i,
        -(n + PSEUDO) / (total.success_i + PSEUDO / 2),
        -n / total.cost_c,
        (n + PSEUDO) / (total.success_c + PSEUDO / 2),
    )


def _cost_gain(busy: _Buckets, alpha: float, *, enough: bool) -> Bounds:
    total = busy.total
    if total.priced <= 0 or (total.success_i <= 0 and total.success_c <= 0):
        return Bounds()
    if total.success_c <= 0:
        return Bounds(point=-inf)
    if total.success_i <= 0:
        return Bounds(point=1.0, high=1.0)
    if total.cost_i <= 0 or total.cost_c <= 0:
        free = 0.0 if total.cost_i <= 0 and total.cost_c <= 0 else 1.0 if total.cost_c <= 0 else -inf
        return Bounds(point=free, low=free, high=free)
    theta = log(total.cost_c / total.success_c) - log(total.cost_i / total.success_i)
    width = _width(busy, _log_ratio_weights(total), alpha) if enough else inf
    least, most = log_ratio_bounds(theta, width)
    return Bounds(point=1 - exp(theta), low=1 - most, high=1 - least)


def _loss_gain(busy: _Buckets, alpha: float, value: float, *, enough: bool) -> Bounds:
    total = busy.total
    if total.priced <= 0:
        return Bounds()
    mean = (total.cost_i + value * (total.priced - total.success_i)) / total.priced
    if mean <= 0:
        return Bounds()
    saved = (total.cost_i - total.cost_c + value * (total.success_c - total.success_i)) / total.priced
    width = _width(busy, (1.0, -value, -1.0, value), alpha) if enough else inf
    return Bounds(point=saved / mean, low=(saved - width) / mean, high=(saved + width) / mean)


def _width(busy: _Buckets, weights: _Weights, alpha: float) -> float:
    """Half-width of the sequence of the mean of a weighted sum of (C_i, S_i, C_c, S_c)."""
    columns = (busy[name] for name in ("cost_i", "success_i", "cost_c", "success_c"))
    a, b, c, d = (map(mul, column, repeat(weight)) for column, weight in zip(columns, weights, strict=True))
    totals, counts = list(map(add, map(add, a, b), map(add, c, d))), busy["priced"]
    if not all(counts):
        totals, counts = list(compress(totals, counts)), [count for count in counts if count]
    variance = robust_variance(totals, counts, _variance_of(weights, busy.total))
    return asymptotic_half_width(variance, busy.total.priced, alpha)


def _variance_of(weights: _Weights, total: PairSums) -> float:
    """Per-pair variance of a weighted sum of (C_i, S_i, C_c, S_c), with the pseudo-pairs."""
    a, b, c, d = weights
    n = total.priced
    mean_i, mean_c = total.cost_i / n, total.cost_c / n
    s_i, s_c, s_both = total.success_i + PSEUDO / 2, total.success_c + PSEUDO / 2, total.success_both + PSEUDO / 4
    # The smoothed successes are those of n + 4 pairs, of which the four have the mean costs.
    square = (
        a * a * (total.cost_i_sq + PSEUDO * mean_i * mean_i)
        + b * b * s_i
        + c * c * (total.cost_c_sq + PSEUDO * mean_c * mean_c)
        + d * d * s_c
    )
    cross = (
        a * b * (total.cost_i_success_i + PSEUDO / 2 * mean_i)
        + a * c * (total.cost_product + PSEUDO * mean_i * mean_c)
        + a * d * (total.cost_i_success_c + PSEUDO / 2 * mean_i)
        + b * c * (total.cost_c_success_i + PSEUDO / 2 * mean_c)
        + b * d * s_both
        + c * d * (total.cost_c_success_c + PSEUDO / 2 * mean_c)
    )
    mean = a * mean_i + c * mean_c + (b * s_i + d * s_c) / (n + PSEUDO)
    return max((square + 2 * cross - (n + PSEUDO) * mean * mean) / n, 0.0)


def _difference_variance(busy: _Buckets) -> tuple[float, float]:
    """Per-pair variance of the difference of success, robust, and the effective share of the pairs for the sign test."""
    n = busy.total.n + PSEUDO
    mean = (busy.total.only_challenger - busy.total.only_incumbent) / n
    iid = (busy.total.discordant + PSEUDO / 2) / n - mean * mean
    variance = robust_variance(list(map(sub, busy["only_challenger"], busy["only_incumbent"])), busy.counts, iid)
    return variance, iid / variance


def _seldom_worse(busy: _Buckets, margin: float, alpha: float) -> bool:
    """Whether the incumbent alone succeeds in fewer than `margin` of the pairs: the challenger is worse by less."""
    n, lost = busy.total.n, busy.total.only_incumbent
    if lost >= margin * n:
        return False
    share = effective_share(busy["only_incumbent"], busy.counts, smoothed_rate_variance(lost, n))
    return rate_log_e(lost * share, n * share, margin) >= -log(alpha)
