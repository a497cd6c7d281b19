"""From what peers.py measured to figures above the bare client, multiples of the floor, and tables in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from _peer_envs import SDK, Environment

CONCURRENT = 64
PHASES = ("plain", "stream200", "stream400", "async64")
SHOWN = ("plain", "stream200", "async64")
CHUNKS_BETWEEN = 200
Figures = Mapping[str, Sequence[Mapping[str, Any]]]


def summarise(
    environments: Mapping[str, Environment],
    figures: Mapping[str, Figures],
    errors: Mapping[str, str],
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that was measured: absolute for the bare clients, added and as multiples of the floor for the others."""
    entries: dict[str, Any] = {}
    for label, environment in environments.items():
        bare, floor = f"bare {environment.openai}", f"floor {environment.openai}"
        missing = not_recorded(environment)
        entry: dict[str, Any] = {
            "name": environment.candidate.name,
            "openai": environment.openai,
            "versions": dict(environment.versions),
            "note": environment.candidate.note,
            "with_newer_openai": environment.problem,
            "recorded": {phase: dict(found) for phase, found in environment.recorded.items()},
            "left_out": missing,
        }
        own = figures.get(label, {})
        entry["absolute"] = per_call(own, about["plan"]["counted"])
        if environment.candidate.name != "bare":
            entry["added"] = above(entry["absolute"], per_call(figures.get(bare, {}), about["plan"]["counted"]))
            entry["times_floor"] = {}
            if floor in figures and bare in figures:
                base = per_call(figures[bare], about["plan"]["counted"])
                yard = above(per_call(figures[floor], about["plan"]["counted"]), base)
                entry["times_floor"] = ratios(entry["added"], yard, missing)
        entry["start_ms"] = best(own.get("start", ()))
        if weighed := own.get("bytes"):
            entry["bytes"] = dict(weighed[-1]) | {"growth": weighed[-1]["late"] - weighed[-1]["early"]}
        entries[label] = entry
    return {"about": dict(about), "candidates": entries, "errors": dict(errors)}


def not_recorded(environment: Environment) -> dict[str, str]:
    """By phase, why its figures cannot be compared: not every call arrived with its tokens."""
    if environment.candidate.name == "bare":
        return {}
    return {
        phase: f"{found['with_usage']} of {found['made']} calls recorded with tokens"
        for phase, found in environment.recorded.items()
        if found["with_usage"] != found["made"]
    }


def per_call(own: Figures, counts: Mapping[str, int]) -> dict[str, dict[str, float]]:
    """Figures of one call by measure and phase, and the slope for `chunk`."""
    found: dict[str, dict[str, float]] = {}
    for side in ("caller", "total"):
        for result in own.get(side, ())[-1:]:
            units = {phase: result[phase] / counts[phase] for phase in PHASES}
            units["async64"] /= CONCURRENT
            found[f"instructions_{side}"] = with_slope(units)
    for kind in ("wall", "cpu"):
        if rounds := own.get("us", ()):
            # noise only ever adds: the best round is nearest to the truth
            found[f"us_{kind}"] = with_slope({phase: min(one[phase][kind] for one in rounds) for phase in PHASES})
    return found


def with_slope(units: Mapping[str, float]) -> dict[str, float]:
    """The figures with `chunk`: the slope between streams of 200 and of 400 chunks."""
    return {**units, "chunk": (units["stream400"] - units["stream200"]) / CHUNKS_BETWEEN}


def above(
    own: Mapping[str, Mapping[str, float]], bare: Mapping[str, Mapping[str, float]]
) -> dict[str, dict[str, float]]:
    """What comes on top of the bare client."""
    return {
        measure: {phase: value - bare[measure][phase] for phase, value in values.items()}
        for measure, values in own.items()
        if measure in bare
    }


def ratios(
    added: Mapping[str, Mapping[str, float]], floor: Mapping[str, Mapping[str, float]], missing: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """Multiples of what the floor adds, without the phases that were not recorded."""
    skipped = set(missing) | ({"stream400", "chunk"} if "stream200" in missing else set())
    return {
        measure: {
            phase: value / floor[measure][phase]
            for phase, value in values.items()
            if phase not in skipped and value > 0 and floor.get(measure, {}).get(phase, 0) > 0
        }
        for measure, values in added.items()
    }


def best(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The smallest of each figure over the rounds."""
    return {key: min(one[key] for one in rounds) for key in (rounds[0] if rounds else ())}


# --- tables ------------------------------------------------------------------------------------------------------


def markdown(summary: Mapping[str, Any]) -> str:
    """The summary for a reader, as Markdown."""
    about, entries = summary["about"], summary["candidates"]
    parts = [f"{about['date']}, Python {about['python']}, {about['machine']}", table_of_candidates(entries)]
    if any("instructions_caller" in entry["absolute"] for entry in entries.values()):
        for side, title in (("caller", "on the calling thread"), ("total", "in total, until all queues are flushed")):
            parts += [f"Instructions added to the bare client {title}:", table_of_cost(entries, f"instructions_{side}")]
    for measure, title in (
        ("us_wall", "Wall time, µs, of a call"),
        ("us_cpu", "CPU time of all threads, µs, of a call"),
    ):
        parts += [f"{title} (noisy):", table_of_cost(entries, measure)]
    parts += ["Start and memory:", table_of_start(entries, about["plan"]["memory"])]
    notes = [
        f"- {entry['name']}: {reason} ({phase})"
        for entry in entries.values()
        for phase, reason in entry["left_out"].items()
    ]
    notes += [
        f"- {entry['name']}: runs with openai {entry['openai']}; with the newest: {entry['with_newer_openai']}"
        for entry in entries.values()
        if entry["with_newer_openai"]
    ]
    notes += [f"- {name}: not measured: {error}" for name, error in summary["errors"].items()]
    if notes:
        parts += ["Remarks:", "\n".join(notes)]
    return "\n\n".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def table_of_candidates(entries: Mapping[str, Any]) -> str:
    """Who takes part, with which versions."""
    rows = []
    for entry in entries.values():
        others = {k: v for k, v in entry["versions"].items() if k not in ("openai", SDK)}
        packages = ", ".join(f"{name} {version}" for name, version in others.items()) or "–"
        rows.append([entry["name"], packages, entry["openai"], entry["versions"][SDK], entry["note"]])
    return table(["candidate", "package", "openai", "OpenTelemetry SDK", "set-up"], rows)


def table_of_cost(entries: Mapping[str, Any], measure: str) -> str:
    """Bare clients absolute, floors as what they add, the others as multiples of their floor; chunks absolute as well."""
    in_instructions = measure.startswith("instructions")

    def quantity(value: float, *, chunk: bool = False) -> str:
        if in_instructions:
            return f"{value:,.0f}" if chunk else f"{value / 1e6:,.2f} M"
        return f"{value:,.2f}" if chunk else f"{value:,.0f}"

    rows = []
    for label, entry in entries.items():
        if measure not in entry["absolute"]:
            continue
        if entry["name"] == "bare":
            values = entry["absolute"][measure]
            cells = [quantity(values[phase]) for phase in SHOWN] + [quantity(values["chunk"], chunk=True)]
            rows.append([f"{label} (absolute)", *cells])
            continue
        added, times = entry["added"].get(measure), entry["times_floor"].get(measure, {})
        if added is None:
            continue
        if entry["name"] == "floor":
            cells = [f"{quantity(added[phase])} = 1" if added[phase] > 0 else "lost in noise" for phase in SHOWN]
        else:
            cells = [ratio_cell(quantity(added[phase]), times.get(phase)) for phase in SHOWN]
        rows.append([label, *cells, quantity(added["chunk"], chunk=True)])
    unit = "instructions" if in_instructions else "µs"
    return table(
        ["candidate", "plain call", "200-chunk stream", "64 concurrent, each", f"one more chunk, {unit}"], rows
    )


def ratio_cell(amount: str, times: float | None) -> str:
    """An amount with its multiple of the floor, or without where it cannot be compared."""
    return f"({amount})" if times is None else f"{times:.2f} × ({amount})"


def table_of_start(entries: Mapping[str, Any], calls: Sequence[int]) -> str:
    """Import, switching on, the whole start above the bare client's, resident memory and its growth."""
    rows = []
    for label, entry in entries.items():
        start, weight = entry["start_ms"], entry.get("bytes")
        bare = entries.get(f"bare {entry['openai']}", {}).get("start_ms", {})
        whole = f"{start['whole'] - bare['whole']:,.0f}" if start and bare else "–"
        if entry["name"] == "bare" and start:
            whole = f"{start['whole']:,.0f} (absolute)"
        rows.append(
            [
                label,
                f"{start['import']:,.0f}" if "import" in start else "–",
                f"{start['switch_on']:,.0f}" if start and entry["name"] != "bare" else "–",
                whole,
                f"{weight['ready'] / 2**20:,.1f}" if weight else "–",
                f"{weight['late'] / 2**20:,.1f}" if weight else "–",
                f"{weight['growth'] / 2**20:+,.2f}" if weight else "–",
            ]
        )
    head = ["candidate", "import, ms", "switching on, ms", "whole start above bare, ms", "client ready, MB"]
    head += [f"after {calls[1]:,} calls, MB", f"growth from call {calls[0]:,} to {calls[1]:,}, MB"]
    return table(head, rows)
