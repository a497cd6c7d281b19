"""Confidence sequences against scipy, closed forms and their own definitions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats

from tierwise.core import confseq as cs
from tierwise.core.variance import bucket_variance, effective_share, hac_variance, robust_variance

COUNTS = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(st.floats(0.01, 1e5), st.floats(0.01, 1e5))
def test_log_beta_agrees_with_scipy(a: float, b: float) -> None:
    """ln B(a, b) is scipy's."""
    assert cs.log_beta(a, b) == pytest.approx(float(special.betaln(a, b)), rel=1e-9, abs=1e-7)


@pytest.mark.parametrize(("s", "n", "p", "a", "b"), [(7, 10, 0.5, 1, 1), (0, 5, 0.3, 1, 1), (18, 20, 0.95, 19, 1)])
def test_rate_e_value_is_the_likelihood_ratio_mixed_over_the_prior(
    s: int, n: int, p: float, a: float, b: float
) -> None:
    """E(p) equals the integral of the likelihood ratio over Beta(a, b)."""
    ratio, _ = integrate.quad(lambda q: stats.beta.pdf(q, a, b) * (q / p) ** s * ((1 - q) / (1 - p)) ** (n - s), 0, 1)
    assert math.exp(cs.rate_log_e(s, n, p, a=a, b=b)) == pytest.approx(ratio, rel=1e-6)


@given(COUNTS, st.floats(0.001, 0.5))
def test_rate_interval_keeps_exactly_what_its_e_value_does_not_reject(counts: tuple[int, int], alpha: float) -> None:
    """The estimate lies inside; just outside each bound E has reached 1/alpha, just inside it has not."""
    s, n = counts
    low, high = cs.rate_interval(s, n, alpha)
    assert 0 <= low <= s / n <= high <= 1
    for bound, inside in ((low, 1e-7), (high, -1e-7)):
        if 0 < bound < 1:
            assert cs.rate_log_e(s, n, bound) >= -math.log(alpha) - 1e-6
            assert cs.rate_log_e(s, n, bound + inside) < -math.log(alpha) + 1e-9


def test_clean_runs_that_prove_a_rate_are_the_published_numbers() -> None:
    """158 clean runs prove 0.95, 984 prove 0.99, at 5 %."""
    for limit, expected in ((0.95, 158), (0.99, 984)):
        assert cs.runs_until(lambda n, at=limit: cs.rate_interval(n, n, 0.05)[0] >= at, start=1) == expected


def test_runs_that_settle_a_floor_are_the_published_numbers() -> None:
    """Rejecting .80 against .95 takes about 35 runs, certifying .95 against a floor of .90 about 385."""
    refute = cs.runs_until(lambda n: cs.rate_interval(0.8 * n, n, 0.05)[1] < 0.95, start=1)
    prove = cs.runs_until(lambda n: cs.rate_interval(0.95 * n, n, 0.05)[0] >= 0.90, start=1)
    assert refute is not None
    assert prove is not None
    assert 20 <= refute <= 60
    assert 250 <= prove <= 450


def test_no_trials_say_nothing() -> None:
    """Without data the interval is everything."""
    assert cs.rate_interval(0, 0, 0.05) == (0.0, 1.0)
    assert cs.quantile_interval((), (1.0,), 0.5, 0.05) == (0.0, math.inf)
    assert cs.asymptotic_half_width(1.0, 0, 0.05) == math.inf


@given(COUNTS, COUNTS, st.floats(-0.9, 0.9))
def test_product_e_value_is_the_infimum_over_a_fine_grid(
    first: tuple[int, int], second: tuple[int, int], delta: float
) -> None:
    """No point of a grid lies below the infimum found by bisection."""
    found = cs.rate_difference_log_e(*first, *second, delta)
    low, high = max(0.0, -delta), min(1.0, 1.0 - delta)
    grid = [low + (high - low) * i / 200 for i in range(1, 200)]
    least = min(cs.rate_log_e(*first, p + delta) + cs.rate_log_e(*second, p) for p in grid)
    assert found <= least + 1e-6


def test_product_test_separates_strict_json_after_six_rounds_at_two_challengers() -> None:
    """(64/7)^2 exceeds 40, (32/6)^2 does not."""
    assert math.exp(cs.rate_difference_log_e(6, 6, 0, 6, 0.0)) == pytest.approx((64 / 7) ** 2)
    assert [cs.rate_exceeds(n, n, 0, n, 0.0, 0.025) for n in (5, 6)] == [False, True]
    assert not cs.rate_exceeds(0, 60, 60, 60, 0.0, 0.025)


@given(st.integers(1, 10**6), st.floats(1e-4, 0.3), st.floats(0.001, 100))
def test_asymptotic_half_width_is_equation_nine(n: int, alpha: float, variance: float) -> None:
    """The half-width as printed in the paper."""
    rho2 = (-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / 250
    rho = math.sqrt(rho2)
    inner = 2 * (n * rho2 + 1) / (n * rho) ** 2 * math.log(math.sqrt(n * rho2 + 1) / alpha)
    assert cs.asymptotic_half_width(variance, n, alpha) == pytest.approx(math.sqrt(variance * inner), rel=1e-9)


def test_non_inferiority_of_clean_arms_takes_the_published_number_of_runs() -> None:
    """All successes: about 130 runs for 5 points, about 210 for 3 points."""
    for margin, expected in ((0.05, 130), (0.03, 216)):

        def decided(n: float, within: float = margin) -> bool:
            v = cs.smoothed_rate_variance(n, n)
            return cs.asymptotic_half_width(*cs.two_arm_variance(v, n, v, n), 0.025) < within

        assert cs.runs_until(decided, start=1) == expected


def test_cost_per_success_variance_is_the_delta_method() -> None:
    """Against the gradient form of the delta method on simulated sums, smoothing aside."""
    rng = stats.qmc.Halton(d=2, seed=1).random(4000)
    costs = [0.5 + x for x, _ in rng]
    wins = [float(u < 0.3 + 0.4 * x) for x, u in rng]
    n = len(costs)
    mean, rate = sum(costs) / n, sum(wins) / n
    linear = [c / mean - w / rate for c, w in zip(costs, wins, strict=True)]
    expected = sum(x * x for x in linear) / n
    found = cs.cost_per_success_variance(
        n=n,
        successes=sum(wins),
        cost_sum=sum(costs),
        cost_sq_sum=sum(c * c for c in costs),
        cost_success_sum=sum(c * w for c, w in zip(costs, wins, strict=True)),
    )
    assert found == pytest.approx(expected, rel=0.01)


@given(st.lists(st.integers(0, 60), min_size=5, max_size=5), st.sampled_from([0.5, 0.9, 0.95]))
def test_quantile_interval_holds_the_empirical_quantile(counts: list[int], tau: float) -> None:
    """The interpolated estimate lies between the bounds, and bounds are edges, 0 or infinity."""
    edges = (1.0, 2.0, 3.0, 4.0)
    low, high = cs.quantile_interval(counts, edges, tau, 0.05)
    estimate = cs.quantile_estimate(counts, edges, tau)
    assert low in (0.0, *edges)
    assert high in (*edges, math.inf)
    assert estimate is None or low <= estimate <= high


def test_quantile_edges_are_judged_by_the_beta_binomial_with_their_own_prior() -> None:
    """An edge is kept exactly while the mixture over Beta(20 tau, 20(1 - tau)) stays below 1/alpha."""
    edges = (1.0, 2.0)
    for below in range(101):
        low, high = cs.quantile_interval((below, 0, 100 - below), edges, 0.5, 0.05)
        log_e = special.betaln(10 + below, 110 - below) - special.betaln(10, 10) + 100 * math.log(2)
        rejected = log_e >= math.log(20)
        assert (low > 0 or high < math.inf) == rejected


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: cs.rate_log_e(5, 4, 0.5),
        lambda: cs.rate_log_e(1, 4, 1.5),
        lambda: cs.rate_interval(1, 4, 0.0),
        lambda: cs.rate_difference_log_e(1, 2, 1, 2, 1.5),
        lambda: cs.asymptotic_half_width(-1.0, 10, 0.05),
        lambda: cs.asymptotic_half_width(1.0, 10, 1.0),
        lambda: cs.quantile_interval((1, 2), (1.0, 2.0), 0.5, 0.05),
        lambda: cs.cost_per_success_variance(n=0, successes=0, cost_sum=0.0, cost_sq_sum=0.0, cost_success_sum=0.0),
    ],
)
def test_arguments_out_of_their_domain_raise(wrong: object) -> None:
    """A wrong argument is an error, never a number."""
    with pytest.raises(ValueError, match=r"."):
        wrong()  # type: ignore[operator]


def test_hac_variance_is_the_bartlett_sum() -> None:
    """The moving-sum form equals the weighted sum of autocovariances."""
    totals = [math.sin(i * i) * 5 + i % 7 for i in range(60)]
    counts = [10.0 + i % 3 for i in range(60)]
    n = sum(counts)
    u = [t - c * sum(totals) / n for t, c in zip(totals, counts, strict=True)]
    width = math.isqrt(60)
    expected = sum(x * x for x in u)
    for lag in range(1, width + 1):
        expected += 2 * (1 - lag / (width + 1)) * sum(u[i] * u[i + lag] for i in range(60 - lag))
    assert hac_variance(totals, counts) == pytest.approx(expected / n * 60 / 59)


def test_bucket_variance_needs_ten_buckets_and_never_lowers_the_variance() -> None:
    """Below ten buckets nothing is estimated; the robust variance is at least the independent one."""
    assert bucket_variance([1.0] * 9, [1.0] * 9) is None
    assert hac_variance([1.0] * 47, [1.0] * 47) is None
    assert robust_variance([5.0] * 20, [10.0] * 20, 0.25) == 0.25
    assert effective_share([10.0, 0.0] * 10, [10.0] * 20, 0.25) < 0.2
