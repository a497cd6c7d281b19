"""False switches and runs to a verdict of the rules engine, by simulation; prints tables.

uv run python benchmarks/decisions/simulate.py [--histories 300] [--looks 100] [--only aa|demo|speed] [--seed 0]
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from core.synthetic import TASK, after, histogram, history, policy, row, runs
from tierwise.core.decide import decide
from tierwise.core.evidence import Evidence, EvidenceRow
from tierwise.core.policy import GuardrailMetric, TaskPolicy
from tierwise.core.route import Route

MODELS = {  # mean and range of latency in seconds, cost per run in USD
    "gemini-3.5-flash": (5.65, 3.14, 9.48, 0.0012),
    "claude-haiku-4-5": (9.13, 2.95, 19.76, 0.0045),
    "claude-sonnet-4-5": (10.47, 3.52, 23.31, 0.0135),
}


def aa(args: argparse.Namespace) -> None:
    """Equal arms: share of histories in which `decide` ever recommends a change."""
    print(f"\nA/A through decide: {args.histories} histories, {args.looks} hourly looks, alpha 5 %")
    print(f"{'arms':>4} {'rate':>5} {'runs/h':>6} {'shock':>5}  PROMOTE  TRIAL only")
    for arms, rate, per_look, shock in ((2, 0.9, 20, 0.0), (2, 0.97, 20, 0.0), (4, 0.9, 20, 0.0), (2, 0.9, 20, 0.6)):
        names = [f"m{i}" for i in range(arms)]
        wanted = policy(*names, min_improvement=0.0)
        seen: Counter[str] = Counter()
        for seed in range(args.histories):
            looks = history(
                random.Random(args.seed + seed),
                dict.fromkeys(names, (rate, 0.01)),
                looks=args.looks,
                per_look=per_look,
                shock=shock,
            )
            rows: list[EvidenceRow] = []
            verdicts = set()
            for hour, look in enumerate(looks, 1):
                rows += look
                if hour < 10 or (hour > 30 and hour % 3):
                    continue
                verdicts.add(decide(rows, wanted, Route(task=TASK, primary="m0"), after(hour)).verdict)
                if "PROMOTE" in verdicts:
                    break
            seen["PROMOTE" if "PROMOTE" in verdicts else "TRIAL" if "TRIAL" in verdicts else "none"] += 1
        share = [seen[v] / args.histories for v in ("PROMOTE", "TRIAL")]
        print(f"{arms:>4} {rate:>5} {per_look:>6} {shock:>5}  {share[0]:>7.1%}  {share[1]:>9.1%}")


def latency(rng: random.Random, model: str) -> float:
    """A latency with the published mean and range: a lognormal cut to the range, scaled to the mean."""
    mean, low, high, _ = MODELS[model]
    sigma = math.log(high / low) / 4
    while True:
        found = mean * math.exp(rng.gauss(-sigma * sigma / 2, sigma))
        if low <= found <= high:
            return found


def demo_round(rng: random.Random, number: int, fences: bool) -> list[EvidenceRow]:
    """One interleaved round: one run of each model."""
    found = []
    for model, (_, _, _, price) in MODELS.items():
        bad = fences and model.startswith("claude")
        forms = {"fenced" if bad else "plain": 1} if fences else {}
        cost = price * math.exp(rng.gauss(-0.02, 0.2))
        evidence = runs(
            1, 0 if bad else 1, cost=cost, spread=0.0, latency=latency(rng, model), failure="json_fenced", forms=forms
        )
        found.append(row(model, evidence, arm="pinned", session="s1", round_number=number))
    return found


def demo_policy(fences: bool, limit: float | None) -> TaskPolicy:
    """The demo's policy of one task."""
    rules = [GuardrailMetric(metric="success_rate", op=">=", limit=0.95)]
    if fences:
        rules.append(GuardrailMetric(metric="json_valid_rate", op=">=", limit=0.99))
    if limit is not None:
        rules.append(GuardrailMetric(metric="latency_p95", op="<=", limit=limit))
    return policy(*MODELS, guardrails=tuple(rules))


def demo(args: argparse.Namespace) -> None:
    """The demo's three models: verdict after each number of rounds, and when strict JSON is first promoted."""
    histories = max(args.histories // 5, 20)
    cases = (
        ("strict JSON, from sonnet, p95 <= 12 s", True, 12.0, "claude-sonnet-4-5"),
        ("other tasks, from sonnet, p95 <= 12 s", False, 12.0, "claude-sonnet-4-5"),
        ("other tasks, from sonnet, no limit", False, None, "claude-sonnet-4-5"),
        ("other tasks, from gemini, p95 <= 12 s", False, 12.0, "gemini-3.5-flash"),
    )
    marks = (2, 5, 6, 10, 20, 30, 40, 60, 100, 140)
    print(f"\nThe demo's models, one run a round, {histories} histories; share of verdicts after so many rounds")
    for title, fences, limit, incumbent in cases:
        print(f"  {title}")
        counts: dict[int, Counter[str]] = {mark: Counter() for mark in marks}
        for seed in range(histories):
            rng = random.Random(args.seed + seed)
            rows: list[EvidenceRow] = []
            for number in range(1, marks[-1] + 1):
                rows += demo_round(rng, number, fences)
                if number in counts:
                    found = decide(rows, demo_policy(fences, limit), Route(task=TASK, primary=incumbent), after(1))
                    codes = {reason.code for reason in found.reasons}
                    proven = " (proven)" if "keep_proven" in codes else " (open)" if "keep_open" in codes else ""
                    counts[number][f"{found.verdict}{proven}"] += 1
        for mark in marks:
            shares = ", ".join(f"{verdict} {n / histories:.0%}" for verdict, n in counts[mark].most_common())
            print(f"    {mark:>4}: {shares}")


def speed(args: argparse.Namespace) -> None:
    """Time of one decision over a month of hourly rows."""
    rng = random.Random(args.seed)
    looks = history(rng, {"a": (0.9, 0.01), "b": (0.9, 0.01), "c": (0.9, 0.01)}, looks=720, per_look=5)
    seconds = histogram([1.0, 2.0, 2.5, 3.0, 6.0])
    rows = [
        EvidenceRow(key=one.key, evidence=replace(one.evidence, latency=seconds, tokens={"output": 500}))
        for look in looks
        for one in look
    ]
    rules = (
        GuardrailMetric(metric="success_rate", op=">=", limit=0.8),
        GuardrailMetric(metric="latency_p95", op="<=", limit=12.0),
    )
    for name, wanted in (
        ("no guardrails", policy("a", "b", "c")),
        ("2 guardrails", policy("a", "b", "c", guardrails=rules)),
    ):
        best = math.inf
        for _ in range(5):
            start = time.perf_counter()
            decide(rows, wanted, Route(task=TASK, primary="a"), after(720))
            best = min(best, time.perf_counter() - start)
        print(f"\ndecide, 3 candidates x 720 hours, {name}: {best * 1e3:.1f} ms, {best / 3 * 1e3:.2f} ms a candidate")
    assert isinstance(rows[0].evidence, Evidence)


def main() -> None:
    """Run the chosen tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=300)
    parser.add_argument("--looks", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parts = {"aa": aa, "demo": demo, "speed": speed}
    parser.add_argument("--only", choices=sorted(parts), action="append")
    args = parser.parse_args()
    for name, part in parts.items():
        if not args.only or name in args.only:
            part(args)


if __name__ == "__main__":
    main()
