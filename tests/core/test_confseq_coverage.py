"""Simulated coverage at every look, seeded: what the guarantees say must hold within binomial slack."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from core.synthetic import histogram, history, misses, policy
from tierwise.core.confseq import (
    asymptotic_half_width,
    quantile_interval,
    rate_exceeds,
    rate_log_e,
    smoothed_rate_variance,
    two_arm_variance,
)
from tierwise.core.decide import decide
from tierwise.core.evidence import HOUR_S, LATENCY_EDGES_S
from tierwise.core.route import Route
from tierwise.core.variance import robust_variance

LOOKS, PER_LOOK = 200, 20


def slack(histories: int, alpha: float = 0.05) -> float:
    """The most that a correct rule misses: alpha plus three binomial standard errors."""
    return alpha + 3 * math.sqrt(alpha * (1 - alpha) / histories)


def binomial(rng: random.Random, n: int, p: float) -> int:
    """Successes of n trials."""
    return sum(rng.random() < p for _ in range(n))


@pytest.mark.parametrize("p", [0.5, 0.95])
def test_rate_sequence_covers_the_rate_at_200_looks(p: float) -> None:
    """The true rate is rejected in at most 5 % of histories, looking 200 times."""

    def missed(seed: int) -> bool:
        rng = random.Random(seed)  # noqa: S311
        s = 0
        for look in range(1, LOOKS + 1):
            s += binomial(rng, 10, p)
            if rate_log_e(s, 10 * look, p) >= math.log(20):
                return True
        return False

    assert misses(missed, 200) <= slack(200)


def test_difference_of_equal_arms_is_rarely_shown_while_naive_z_shows_it_often() -> None:
    """A/A at p = .9: the asymptotic sequence errs within its level, the exact product less, naive z several times more."""
    wrong = {"sequence": 0, "exact": 0, "naive": 0}
    histories = 150
    for seed in range(histories):
        rng = random.Random(seed)  # noqa: S311
        a = b = 0
        hit = dict.fromkeys(wrong, False)
        for look in range(1, LOOKS + 1):
            a, b, n = a + binomial(rng, PER_LOOK, 0.9), b + binomial(rng, PER_LOOK, 0.9), PER_LOOK * look
            if n < 30:
                continue
            v1, v2 = smoothed_rate_variance(a, n), smoothed_rate_variance(b, n)
            gap = abs(a - b) / n
            hit["sequence"] |= gap > asymptotic_half_width(*two_arm_variance(v1, n, v2, n), 0.05)
            hit["naive"] |= gap > 1.96 * math.sqrt((v1 + v2) / n)
            hit["exact"] |= rate_exceeds(a, n, b, n, 0.0, 0.05) or rate_exceeds(b, n, a, n, 0.0, 0.05)
        for name, wrongly in hit.items():
            wrong[name] += wrongly
    assert wrong["sequence"] / histories <= slack(histories)
    assert wrong["exact"] / histories <= slack(histories)
    assert wrong["naive"] / histories > 0.2


@pytest.mark.parametrize("tau", [0.5, 0.95])
def test_quantile_sequence_covers_the_quantile(tau: float) -> None:
    """Lognormal latencies: the true quantile leaves the interval in at most 5 % of histories."""
    sigma = 0.7
    true = 2.0 * math.exp(sigma * {0.5: 0.0, 0.95: 1.6448536}[tau])

    def missed(seed: int) -> bool:
        rng = random.Random(seed)  # noqa: S311
        counts = histogram(())
        for _ in range(60):
            batch = histogram([2.0 * math.exp(rng.gauss(0, sigma)) for _ in range(20)])
            counts = tuple(map(sum, zip(counts, batch, strict=True)))
            low, high = quantile_interval(counts, LATENCY_EDGES_S, tau, 0.05)
            if not low < true <= high:
                return True
        return False

    assert misses(missed, 150) <= slack(150)


def test_correlated_hours_mislead_the_plain_sequence_and_not_the_bucket_robust_one() -> None:
    """Shocks of sd .6 on the logit of each arm and hour: robust within its level, plain well above it."""
    histories = 200
    plain = robust = 0
    for seed in range(histories):
        rng = random.Random(seed)  # noqa: S311
        series: list[list[float]] = [[], []]
        wrong_plain = wrong_robust = False
        for look in range(1, 101):
            for arm in series:
                arm.append(binomial(rng, 30, 1 / (1 + math.exp(-(math.log(9) + rng.gauss(0, 0.6))))))
            if look < 10 or look % 2:
                continue
            n, counts = 30 * look, [30.0] * look
            gap = abs(sum(series[0]) - sum(series[1])) / n
            iid = [smoothed_rate_variance(sum(arm), n) for arm in series]
            both = [robust_variance(arm, counts, v) for arm, v in zip(series, iid, strict=True)]
            wrong_plain |= gap > asymptotic_half_width(*two_arm_variance(iid[0], n, iid[1], n), 0.05)
            wrong_robust |= gap > asymptotic_half_width(*two_arm_variance(both[0], n, both[1], n), 0.05)
        plain += wrong_plain
        robust += wrong_robust
    assert robust / histories <= slack(histories)
    assert plain / histories > 2 * robust / histories


def test_equal_models_are_rarely_promoted_by_the_whole_decision() -> None:
    """A/A through `decide`: a change of the primary is recommended in at most 5 % of histories."""
    wanted = policy("a", "b", min_improvement=0.0)
    route = Route(task="summary", primary="a")

    def promoted(seed: int) -> bool:
        looks = history(random.Random(seed), {"a": (0.95, 0.01), "b": (0.95, 0.01)}, looks=30, per_look=20)  # noqa: S311
        for look in range(10, 31, 2):
            rows = list(itertools.chain.from_iterable(looks[:look]))
            now = rows[-1].key.bucket + HOUR_S
            if decide(rows, wanted, route, now).verdict in ("PROMOTE", "TRIAL"):
                return True
        return False

    assert misses(promoted, 60) <= slack(60)
