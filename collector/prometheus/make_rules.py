"""Writes the recording rules for hourly evidence, for Prometheus and for vmalert; `--check` says whether they are current."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tierwise.core.evidence import LATENCY_EDGES_S, UNCOUNTED
from tierwise.evidence.prometheus import SETTLE_S
from tierwise.evidence.prometheus_names import HEARTBEAT, RECORDED_PREFIX, RECORDED_SUFFIX, namings
from tierwise.evidence.prometheus_raw import LOOKBACK
from tierwise.surfaces.cli.source import names

HERE = Path(__file__).resolve().parent
NAMING = namings(names())[0]
LABELS = NAMING.labels
KEPT = ("service_name", "deployment_environment_name")
"""Labels of the process that stay, so that evidence can be read for one service or environment."""
BASE = tuple(LABELS[role] for role in ("task", "candidate", "epoch", "arm", "rung", "grade"))
RUN = tuple(LABELS[role] for role in ("task", "candidate", "epoch", "arm", "grade", "outcome", "run_success"))
RUN_COUNTED = tuple(LABELS[role] for role in ("task", "candidate", "epoch", "arm", "grade"))
COUNTED = "{" + f'{LABELS["outcome"]}!~"{"|".join(UNCOUNTED)}"' + "}"
EDGES = [f"{edge:g}" for edge in LATENCY_EDGES_S] + ["+Inf"]

HEADER = """\
# Hourly evidence of every task and model, so that a month of it is read in seconds. Written by make_rules.py: do not edit.
#
# Each rule looks at the last full hour that ended at least {minutes} minutes before, always at whole hours ([1h:1h]), and
# says what its counters gained in it: exactly, not extrapolated. {how}
#
# An hour is summed twice, so that what arrives within forty minutes of its end is in; what comes later, `tierwise plan`
# finds by comparing, and reads from the counters.
groups:
  - name: tierwise-evidence
    interval: 30m
    rules:
"""
PROMETHEUS_HOW = """Needs histograms kept as native ones
# (`convert_histograms_to_nhcb`, as prometheus.yml has it), and no feature flag. Mimir and Thanos Ruler take it as well."""
VICTORIA_HOW = "For vmalert (MetricsQL)."
SHOW_RESETS = ("calls", "tokens", "runs")
"""Counters in which a restart shows best; the reader looks at the same ones."""


def increase(name: str, matchers: str) -> str:
    """What each series gained in the hour before: since its last value before, of new series since zero.

    Wrong for a series that began anew in that hour, which is why such an hour gets no heartbeat.
    """
    one = name + matchers
    return (
        f"(last_over_time({one}[1h]) - last_over_time({one}[{LOOKBACK}] offset 1h))\n    or last_over_time({one}[1h])"
    )


def heartbeat() -> str:
    """0 for an hour in which no counter began anew, nothing for another: the reader then reads the counters."""
    parts = []
    for role in SHOW_RESETS:
        name = NAMING.metrics[role]
        parts.append(f"(sum(resets({name}[1h])) or vector(0))")
        fallen = f"min_over_time({name}[1h]) < last_over_time({name}[{LOOKBACK}] offset 1h)"
        parts.append(f"(count({fallen}) or vector(0))")
    return at_the_hour("\n  + ".join(parts) + "\n  == 0")


def rules() -> list[tuple[str, str]]:
    """Role and expression of every rule over counters.

    Fewer series are read faster: that every call has a price is the rule, so those without one are recorded.
    """
    calls = (*BASE, LABELS["outcome"], LABELS["json_form"], LABELS["member"])
    money = (*BASE, LABELS["outcome"], LABELS["member"])
    found = [
        ("calls", gained("calls", calls)),
        ("unpriced", missing("calls", "priced", money)),
        ("cost", gained("cost", money)),
        ("cost_squared", gained("cost_squared", (*BASE, LABELS["member"]), COUNTED)),
    ]
    found += [(role, gained(role, BASE, COUNTED)) for role in ("retries", "retried")]
    found += [("tokens", gained("tokens", (*BASE, LABELS["token_kind"]), COUNTED))]
    found += [(role, gained(role, BASE)) for role in ("check_score", "check_count")]
    found += [("feedback", gained("feedback", (*BASE, LABELS["accepted"])))]
    found += [("runs", gained("runs", RUN)), ("runs_escalated", gained("runs_escalated", RUN))]
    found += [("runs_unpriced", missing("runs", "runs_priced", RUN)), ("runs_cost", gained("runs_cost", RUN))]
    return [*found, ("runs_cost_squared", gained("runs_cost_squared", RUN_COUNTED, COUNTED))]


def gained(role: str, labels: tuple[str, ...], matchers: str = "") -> str:
    """What a counter gained, where it gained something."""
    return summed(increase(NAMING.metrics[role], matchers), labels)


def missing(role: str, part: str, labels: tuple[str, ...]) -> str:
    """By how much `part` gained less than the whole, where it did."""
    whole, some = f"({gained(role, labels)}\n  )", f"({gained(part, labels)}\n  )"
    return f"{whole} - ({some} or 0 * {whole}) > 0"


def rule(record: str, expression: str) -> str:
    """One rule as YAML."""
    lines = [f"      - record: {record}", "        expr: |-", *(f"          {line}" for line in expression.split("\n"))]
    return "\n".join(lines) + "\n"


def at_the_hour(expression: str) -> str:
    """An expression as it was at the last whole hour that has settled."""
    return f"last_over_time((\n  {expression}\n)[1h:1h] offset {SETTLE_S // 60}m)"


def summed(gained: str, labels: tuple[str, ...], *, positive: bool = True) -> str:
    """Sums over processes."""
    return f"sum by ({', '.join((*labels, *KEPT))}) (\n    {gained}\n  ){' > 0' if positive else ''}"


def recorded(role: str) -> str:
    """The name of a recorded series."""
    return f"{RECORDED_PREFIX}{role}{RECORDED_SUFFIX}"


def prometheus() -> str:
    """The file for Prometheus."""
    out = [HEADER.format(minutes=SETTLE_S // 60, how=PROMETHEUS_HOW)]
    out += [rule(recorded(role), at_the_hour(expression)) for role, expression in rules()]
    for role in ("duration", "first_chunk"):
        whole = at_the_hour(summed(increase(NAMING.metrics[role], COUNTED), BASE, positive=False))
        calls = f"{recorded('calls')}"
        out.append(rule(recorded(role), f"{whole}\nand on ({', '.join((*BASE, *KEPT))}) {calls}"))
        out.append(rule(recorded(f"{role}_inside"), buckets(recorded(role))))
        if role == "duration":
            out.append(rule(recorded("duration_sum"), f"histogram_sum({recorded(role)})"))
    out.append(rule(HEARTBEAT, heartbeat()))
    return "".join(out)


def buckets(histogram: str) -> str:
    """The counts of a native histogram's buckets as plain series, which a server reads several times as fast."""
    lows = ["-Inf", *EDGES[:-1]]
    return "\nor ".join(
        f"label_replace(round(histogram_count({histogram}) * histogram_fraction({low}, {high}, {histogram})) > 0, "
        f'"le", "{high}", "", "")'
        for low, high in zip(lows, EDGES, strict=True)
    )


def victoria() -> str:
    """The file for vmalert."""
    out = [HEADER.format(minutes=SETTLE_S // 60, how=VICTORIA_HOW)]
    out += [rule(recorded(role), at_the_hour(expression)) for role, expression in rules()]
    shifted = ", ".join(f'"{low}", "{high}"' for low, high in zip(EDGES, [*EDGES[1:], "none"], strict=True))
    for role in ("duration", "first_chunk"):
        cumulative = summed(increase(f"{NAMING.metrics[role]}_bucket", COUNTED), (*BASE, "le"), positive=False)
        lowest = EDGES[0].replace(".", "[.]")
        inside = (
            f"WITH (\n    c = {cumulative}\n  )\n"
            f'  ((c - label_map(c, "le", {shifted})) or label_match(c, "le", "{lowest}")) > 0'
        )
        out.append(rule(recorded(f"{role}_inside"), at_the_hour(inside)))
        if role == "duration":
            total = increase(f"{NAMING.metrics[role]}_sum", COUNTED)
            out.append(rule(recorded(f"{role}_sum"), at_the_hour(summed(total, BASE))))
    out.append(rule(HEARTBEAT, heartbeat()))
    return "".join(out)


FILES = {HERE / "rules" / "evidence.yml": prometheus, HERE / "vmalert" / "evidence.yml": victoria}


def main() -> int:
    """Write both files, or with `--check` compare them; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 when a file is not current")
    check = parser.parse_args().check
    stale = [path for path, make in FILES.items() if not path.exists() or path.read_text("utf-8") != make()]
    for path in stale:
        if check:
            sys.stderr.write(f"{path} is not current: run python {Path(__file__).name}\n")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(FILES[path](), "utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
