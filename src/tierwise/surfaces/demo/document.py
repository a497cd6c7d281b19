"""The demo as one JSON document."""

from __future__ import annotations

from tierwise.surfaces.demo.models import LATENCY_SCALE
from tierwise.surfaces.demo.story import Look, Places
from tierwise.surfaces.summary import ModelSummary

_LATENCIES = ("latency_mean_s", "latency_median_s", "latency_p95_s", "latency_min_s", "latency_max_s")


def document(first: Look, last: Look, places: Places, *, seed: int) -> dict[str, object]:
    """Everything the demo prints. `models`, `tasks` and `recommendations` are those after all rounds and count the five
    tasks alone; `first_look` has what the two published rounds could tell; the probe is in `token_budget` alone."""
    return {
        "simulated": True,
        "seed": seed,
        "rounds": last.rounds,
        "latency_scale": LATENCY_SCALE,
        "models": {model: _model(summary) for model, summary in last.models.items()},
        "tasks": {task: dict(verdicts) for task, verdicts in last.tasks.items()},
        "recommendations": [one.to_json() for one in last.recommendations],
        "first_look": {
            "rounds": first.rounds,
            "models": {model: _model(summary) for model, summary in first.models.items()},
            "recommendations": [one.to_json() for one in first.recommendations],
        },
        "token_budget": last.budget.to_json(),
        "store": str(places.store),
        "report": str(places.report),
    }


def _model(summary: ModelSummary) -> dict[str, object]:
    """A summary, with its latencies at the published scale beside the measured ones."""
    measured = summary.to_json()
    published = {
        name: value * LATENCY_SCALE if isinstance(value := measured[name], float) else None for name in _LATENCIES
    }
    return {**measured, "published_scale": published}
