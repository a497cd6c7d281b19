"""The JSON Schema of each document that `--json` prints, of the commands for files, store, prices and health."""

from __future__ import annotations

from typing import Final, get_args

from tierwise.core.cost import KINDS, CostSource
from tierwise.surfaces.cli.outputs.build import any_of, by_name, flag, number, part, record, several, text, whole
from tierwise.surfaces.cli.outputs.parts import HEALTH

_RATES: Final = {
    "rates_usd_per_million_tokens": any_of(
        several(
            record(
                {
                    "above_input_tokens": whole("The band holds for requests with more input tokens than this."),
                    **{kind: number(null=True) for kind in KINDS},
                }
            )
        ),
        {"type": "null"},
        about="USD per million tokens by kind, a band for each size of request; `null`: no price is known.",
    ),
    "source": text("Where the price is from.", of=get_args(CostSource), null=True),
    "as_of": text("The catalogue's version, such as `genai-prices 0.2.3`.", null=True),
}


_DRY_RUN: Final = flag("Nothing was changed.")

_PLACE: Final = record(
    {
        "path": text(),
        "line": whole(),
        "column": whole(),
        "severity": text(of=("error", "warning")),
        "message": text("What is wrong and what to do."),
    }
)
VALIDATE: Final = several(
    record(
        {
            "path": text("The file."),
            "valid": flag("It has no errors."),
            "errors": several(_PLACE),
            "warnings": several(_PLACE),
        }
    ),
    "One a file.",
)

STORE_PATH: Final = record(
    {"path": text("`null`: the store is off.", null=True), "exists": flag()}, "Where the store is."
)
STORE_STATUS: Final = record(HEALTH["properties"], HEALTH["description"])
STORE_PRUNE: Final = any_of(
    record({"dry_run": {"const": False}, "deleted": whole("Rows.")}, "What was deleted."),
    record(
        {
            "dry_run": {"const": True},
            "rows": whole("That would be deleted."),
            "too_old": whole("Those of them beyond the retention."),
            "estimated": flag("Size decides, so the number is an estimate."),
        },
        "With --dry-run.",
    ),
)
STORE_VACUUM: Final = any_of(
    record({"dry_run": {"const": False}, "before_bytes": whole(), "after_bytes": whole()}, "What was done."),
    record(
        {"dry_run": {"const": True}, "size_bytes": whole(), "free_bytes": whole("That would be freed.")},
        "With --dry-run.",
    ),
)

COLLECTOR_INIT: Final = record(
    {"written": several(text(), "Files that were, or would be, written."), "dry_run": _DRY_RUN}, "What was written."
)
COLLECTOR_CHECK: Final = record(
    {
        "file": text(),
        "otelcol": text("The program that validated it too.", null=True),
        "errors": several(text()),
        "warnings": several(text()),
    },
    "What is wrong with a configuration.",
)

PRICES: Final = several(
    record({"model": text("PROVIDER/MODEL."), "calls": whole(), **_RATES}), "Models that were called, most calls first."
)
PRICES_SEARCH: Final = several(
    record({"model": text("PROVIDER/MODEL."), "name": text("For people."), **_RATES}), "Models that match, by name."
)
PRICES_MISSING: Final = several(
    record(
        {
            "provider": text(),
            "model": text(),
            "calls": whole("Without a cost."),
            "known_now": flag("A price is known by now: `tierwise prices reprice` sets it."),
        }
    ),
    "Models whose calls have no cost.",
)
PRICES_REPRICE: Final = record(
    {
        "dry_run": _DRY_RUN,
        "calls": whole("Calls with another cost."),
        "cost_before_usd": number(null=True),
        "cost_after_usd": number(null=True),
        "hours_rebuilt": whole("Hours of evidence.", null=True),
        "hours_left": whole("Those that keep their cost, since some of their calls are pruned.", null=True),
    },
    "What changed, or would.",
)
PRICES_COMPARE: Final = record(
    {
        "input_tokens": whole("Of each call."),
        "output_tokens": whole(),
        "models": several(
            record({"model": text(), **_RATES, "cost_per_1000_calls_usd": number(null=True)}), "The two."
        ),
        "ratio": number("Cost of the second, divided by that of the first.", null=True),
    },
    "Two models side by side.",
)
PRICES_CATALOGUE: Final = record(
    {
        "catalogue": text("Package and version."),
        "providers": whole(),
        "models": whole("Billed by tokens."),
        "latest_change": text("The newest dated change of a price in force, YYYY-MM-DD.", null=True),
        "next_change": text("The next one to come that it knows of.", null=True),
    },
    "How current the installed prices are.",
)

DOCTOR: Final = record(
    {
        "ok": flag("No finding."),
        "versions": by_name(text(), "Version by package."),
        "points": several(
            record(
                {
                    "level": text("`finding` needs somebody to act.", of=("ok", "note", "finding")),
                    "about": text("Such as `store`, `prices` or `export`."),
                    "text": text(),
                    "todo": text("What to do; empty where there is nothing."),
                }
            ),
            "One a thing that was looked at.",
        ),
        "store": part("StoreHealth", "`null` without one that can be read.", null=True),
    },
    "What was looked at.",
)
