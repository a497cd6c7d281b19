"""What `--json` prints, as JSON Schema (draft 2020-12): the table of commands, and a schema complete in itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from tierwise.surfaces.cli.outputs import documents, parts, upkeep
from tierwise.surfaces.cli.outputs.build import DIALECT, Schema

PARTS: Final[dict[str, Schema]] = {
    "Recommendation": parts.RECOMMENDATION,
    "Candidate": parts.CANDIDATE,
    "Guardrail": parts.GUARDRAIL,
    "Interval": parts.INTERVAL,
    "Coverage": parts.COVERAGE,
    "Route": parts.ROUTE,
    "RouteFields": documents.ROUTE_FIELDS,
    "Change": parts.CHANGE,
    "Decision": documents.DECISION,
    "Splits": documents.SPLITS,
    "Call": parts.CALL,
    "Summary": parts.SUMMARY,
    "TokenBudget": parts.BUDGET,
    "BacktestTotal": documents.TOTAL,
    "FixedModel": documents.FIXED_MODEL,
    "StoreHealth": parts.HEALTH,
}
"""Records that documents share: what `$defs` may hold, in the order of the reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """The shape of one command's document; `lines`: one document a line, for as long as it runs."""

    schema: Schema
    lines: bool = False


OUTPUTS: Final[dict[str, Output]] = {
    "demo": Output(schema=documents.demo()),
    "bench": Output(schema=documents.BENCH),
    "status": Output(schema=documents.STATUS),
    "calls": Output(schema=documents.CALLS),
    "feedback": Output(schema=documents.FEEDBACK),
    "plan": Output(schema=documents.PLAN),
    "explain": Output(schema=documents.EXPLAIN),
    "apply": Output(schema=documents.APPLY),
    "promote": Output(schema=documents.PROMOTE),
    "abort": Output(schema=documents.BY_HAND),
    "rollback": Output(schema=documents.BY_HAND),
    "history": Output(schema=documents.HISTORY),
    "watch": Output(schema=documents.WATCH, lines=True),
    "backtest": Output(schema=documents.BACKTEST),
    "report": Output(schema=documents.REPORT),
    "validate": Output(schema=upkeep.VALIDATE),
    "store path": Output(schema=upkeep.STORE_PATH),
    "store prune": Output(schema=upkeep.STORE_PRUNE),
    "store status": Output(schema=upkeep.STORE_STATUS),
    "store vacuum": Output(schema=upkeep.STORE_VACUUM),
    "collector check": Output(schema=upkeep.COLLECTOR_CHECK),
    "collector init": Output(schema=upkeep.COLLECTOR_INIT),
    "prices": Output(schema=upkeep.PRICES),
    "prices catalogue": Output(schema=upkeep.PRICES_CATALOGUE),
    "prices compare": Output(schema=upkeep.PRICES_COMPARE),
    "prices missing": Output(schema=upkeep.PRICES_MISSING),
    "prices reprice": Output(schema=upkeep.PRICES_REPRICE),
    "prices search": Output(schema=upkeep.PRICES_SEARCH),
    "doctor": Output(schema=upkeep.DOCTOR),
}
"""By command, in the order of `tierwise --help`."""


def schema_of(command: str) -> dict[str, Any]:
    """The schema of what `tierwise COMMAND --json` prints, with all that it refers to.

    Raises:
        KeyError: the command is not in `OUTPUTS`.
    """
    output = OUTPUTS[command]
    names = list(parts_of(output.schema))
    title = f"{'A line of what' if output.lines else 'What'} tierwise {command} --json prints"
    whole = {"$schema": DIALECT, "title": title, **output.schema}
    return whole | ({"$defs": {name: PARTS[name] for name in PARTS if name in names}} if names else {})


def parts_of(schema: Schema) -> Iterator[str]:
    """The names of the shared records that a schema refers to, those that these refer to included; each once."""
    seen: dict[str, None] = {}
    left: list[Any] = [schema]
    while left:
        value = left.pop()
        if isinstance(value, list):
            left += value
        elif isinstance(value, dict):
            name = str(value.get("$ref", "")).removeprefix("#/$defs/")
            if name and name not in seen:
                seen[name] = None
                left.append(PARTS[name])
            left += value.values()
    yield from seen
