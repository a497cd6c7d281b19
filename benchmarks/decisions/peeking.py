"""How often rules switch between two identical models that somebody compares every hour; prints a table.

uv run python benchmarks/decisions/peeking.py [--histories 1000] [--looks 200] [--runs 20] [--rate 0.9] [--seed 0]

One number a bucket and arm is drawn, so thousands of histories run in minutes. `shock` is the standard deviation, on
the logit scale, of what an hour does to one arm; `persistence` its autocorrelation from hour to hour.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Callable

from tierwise.core.confseq import asymptotic_half_width, smoothed_rate_variance, two_arm_variance
from tierwise.core.variance import _cluster, _residuals, robust_variance

ALPHA = 0.05
MIN_RUNS = 30
MIN_BUCKETS = 10
SCENARIOS = ((0.0, 0.0), (0.6, 0.0), (0.6, 0.5), (0.6, 0.8), (0.6, 0.9))

Arm = tuple[list[int], int, int]
Rule = Callable[[Arm, Arm, int], bool]


def binomial(rng: random.Random, n: int, p: float) -> int:
    """A binomial draw by inversion of the distribution function."""
    q = 1.0 - p
    if q <= 0.0:
        return n
    target, total = rng.random(), 0.0
    term = q**n
    for k in range(n + 1):
        total += term
        if target <= total:
            return k
        term *= (n - k) / (k + 1) * p / q
    return n


def difference(a: Arm, b: Arm) -> float:
    """Success rate of b minus that of a."""
    return b[1] / b[2] - a[1] / a[2]


def five_points(a: Arm, b: Arm, runs: int) -> bool:
    """The measured difference is 5 points or more."""
    return a[2] >= MIN_RUNS and abs(difference(a, b)) >= 0.05


def naive_z(a: Arm, b: Arm, runs: int) -> bool:
    """A z test at 5 %, as if this were the only look."""
    pooled = (a[1] + b[1]) / (a[2] + b[2])
    se = math.sqrt(max(pooled * (1 - pooled), 1e-12) * (1 / a[2] + 1 / b[2]))
    return a[2] >= MIN_RUNS and abs(difference(a, b)) > 1.96 * se


def wilson(a: Arm, b: Arm, runs: int) -> bool:
    """The two Wilson intervals do not overlap."""

    def interval(arm: Arm) -> tuple[float, float]:
        s, n, z = arm[1], arm[2], 1.96
        middle = (s + z * z / 2) / (n + z * z)
        half = z / (n + z * z) * math.sqrt(s * (n - s) / n + z * z / 4)
        return middle - half, middle + half

    (low, high), (low2, high2) = interval(a), interval(b)
    return a[2] >= MIN_RUNS and (low > high2 or low2 > high)


def _sequence(variance: Callable[[Arm, int], float]) -> Rule:
    def rule(a: Arm, b: Arm, runs: int) -> bool:
        if a[2] < MIN_RUNS or len(a[0]) < MIN_BUCKETS:
            return False
        v, n = two_arm_variance(variance(a, runs), a[2], variance(b, runs), b[2])
        return abs(difference(a, b)) > asymptotic_half_width(v, n, ALPHA)

    return rule


def _plain(arm: Arm, runs: int) -> float:
    return smoothed_rate_variance(arm[1], arm[2])


def _buckets(arm: Arm, runs: int) -> float:
    residuals, n = _residuals(arm[0], [runs] * len(arm[0]))
    return max(_plain(arm, runs), _cluster(residuals, n)) if residuals is not None else _plain(arm, runs)


def _full(arm: Arm, runs: int) -> float:
    return robust_variance(arm[0], [runs] * len(arm[0]), _plain(arm, runs))


RULES: dict[str, Rule] = {
    "5 points better": five_points,
    "naive z": naive_z,
    "Wilson": wilson,
    "plain sequence": _sequence(_plain),
    "by buckets": _sequence(_buckets),
    "by buckets + HAC": _sequence(_full),
}


def history(rng: random.Random, args: argparse.Namespace, shock: float, persistence: float) -> set[str]:
    """The rules that switched at some look of one history."""
    logit = math.log(args.rate / (1 - args.rate))
    arms: list[list[int]] = [[], []]
    sums = [0, 0]
    state = [rng.gauss(0, 1), rng.gauss(0, 1)]
    switched: set[str] = set()
    for look in range(1, args.looks + 1):
        for side in (0, 1):
            state[side] = persistence * state[side] + math.sqrt(1 - persistence**2) * rng.gauss(0, 1)
            drawn = binomial(rng, args.runs, 1 / (1 + math.exp(-(logit + shock * state[side]))))
            arms[side].append(drawn)
            sums[side] += drawn
        n = look * args.runs
        a, b = (arms[0], sums[0], n), (arms[1], sums[1], n)
        for name, rule in RULES.items():
            if name not in switched and rule(a, b, args.runs):
                switched.add(name)
    return switched


def interval(hits: int, n: int) -> tuple[float, float]:
    """95 % Wilson interval of a share."""
    z = 1.96
    middle = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(hits * (n - hits) / n + z * z / 4)
    return max(0.0, middle - half), middle + half


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("histories", 1000), ("looks", 200), ("runs", 20), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--rate", type=float, default=0.9)
    args = parser.parse_args()
    print(
        f"{args.histories} histories, {args.looks} looks of {args.runs} runs an arm, both arms {args.rate}; nominal 5 %"
    )
    print(f"{'shock':>5} {'persist.':>8}  " + "  ".join(f"{name:>22}" for name in RULES))
    for shock, persistence in SCENARIOS:
        hits = dict.fromkeys(RULES, 0)
        for number in range(args.histories):
            for name in history(random.Random(f"{args.seed}-{number}-{shock}-{persistence}"), args, shock, persistence):
                hits[name] += 1
        cells = []
        for name in RULES:
            low, high = interval(hits[name], args.histories)
            cells.append(f"{hits[name] / args.histories:>7.1%} ({low:.1%}-{high:.1%})".rjust(22))
        print(f"{shock:>5} {persistence:>8}  " + "  ".join(cells), flush=True)


if __name__ == "__main__":
    main()
