"""Routes as plain JSON and YAML, as environment variables and as flagd flags."""

from __future__ import annotations

import io
import json
import re
import shlex
from typing import Any, Final

from tierwise.core.errors import ConfigError
from tierwise.core.policy import Condition
from tierwise.surfaces.export.view import ANY, Routes, TaskRoute

FORMAT: Final = "tierwise-export/1"
PREFIX: Final = "TIERWISE_TASK_"
_FLAGD_SCHEMA: Final = "https://flagd.dev/schema/v0/flags.json"
_PARTS: Final = 100_000
"""What flagd's fractions are parts of: it takes whole numbers."""


# --- plain -------------------------------------------------------------------------------------------------------


def document(routes: Routes) -> dict[str, Any]:
    """The routes as plain values."""
    tasks: dict[str, Any] = {}
    for one in routes.tasks:
        found: dict[str, Any] = {"primary": one.primary, "shares": dict(one.shares), "fallbacks": list(one.fallbacks)}
        if one.tier:
            found["tier"] = one.tier
        if one.rungs:
            found["ladder"] = {"escalate_on": list(one.escalate_on), "rungs": list(one.rungs)}
        if one.risk is not None:
            found["risk"] = one.risk
        if one.conditions:
            found["conditions"] = [
                {"when": _when(condition), "candidate": who}
                for condition, who in zip(one.conditions, one.conditional, strict=True)
            ]
        tasks[one.task] = found
    models: dict[str, Any] = {}
    for name, spec in routes.models.items():
        told = {
            "model": spec.model,
            "upstream": spec.upstream,
            "base_url": spec.base_url,
            "api_key_env": spec.api_key_env,
        }
        models[name] = {key: value for key, value in told.items() if value is not None}
        if spec.params:
            models[name]["params"] = dict(spec.params)
    return {
        "format": FORMAT,
        "version": routes.version,
        "updated_at": routes.updated_at,
        "tasks": tasks,
        "models": models,
        "tiers": {name: list(members) for name, members in routes.tiers.items()},
    }


def _when(condition: Condition) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if condition.risk:
        found["risk"] = list(condition.risk)
    if condition.min_input_tokens is not None:
        found["min_input_tokens"] = condition.min_input_tokens
    if condition.max_input_tokens is not None:
        found["max_input_tokens"] = condition.max_input_tokens
    if condition.labels:
        found["labels"] = dict(condition.labels)
    if condition.tools is not None:
        found["tools"] = condition.tools
    return found


def to_json(routes: Routes) -> str:
    """The routes as JSON text."""
    return json.dumps(document(routes), indent=2, allow_nan=False) + "\n"


def to_yaml(routes: Routes) -> str:
    """The routes as YAML text."""
    return f"# Written by `tierwise export --format yaml`: routes version {routes.version}.\n" + dumped(
        document(routes)
    )


def dumped(value: object) -> str:
    """Plain values as YAML text, in their own order."""
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 120
    yaml.allow_unicode = True
    stream = io.StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()


# --- environment variables ---------------------------------------------------------------------------------------


def to_env(routes: Routes, prefix: str = PREFIX) -> str:
    """Three variables a task: the primary, the fallbacks and, where runs are split, the shares.

    Raises:
        ConfigError: two tasks would have the same variable.
    """
    lines = [f"# Written by `tierwise export --format env`: routes version {routes.version}."]
    owners: dict[str, str] = {}
    for one in routes.tasks:
        name = prefix + ("DEFAULT" if one.task == ANY else re.sub(r"[^A-Za-z0-9]", "_", one.task).upper())
        values = {name: one.primary}
        if one.fallbacks:
            values[f"{name}_FALLBACKS"] = ",".join(one.fallbacks)
        if len(one.shares) > 1:
            values[f"{name}_SHARES"] = ",".join(f"{who}={share:.6g}" for who, share in one.shares.items())
        for variable, value in values.items():
            if variable in owners:
                raise ConfigError(
                    f"the tasks {owners[variable]!r} and {one.task!r} would both be {variable}; export --format json, or "
                    "rename one of them"
                )
            owners[variable] = one.task
            lines.append(f"{variable}={shlex.quote(value)}")
    return "\n".join(lines) + "\n"


# --- flagd -------------------------------------------------------------------------------------------------------


def to_flagd(routes: Routes) -> str:
    """One string flag a task: its key is the task (`default` for tasks nobody named), its variants the candidates.

    The split is by the targeting key, which should be the run's id. Conditions look at `risk`, `input_tokens`, `labels` and
    `tools` of the evaluation context.
    """
    flags: dict[str, Any] = {}
    for one in routes.tasks:
        key = "default" if one.task == ANY else one.task
        if key in flags:
            raise ConfigError("the task 'default' and the policy of \"*\" would be the same flag; rename the task")
        flags[key] = _flag(one)
    value = {
        "$schema": _FLAGD_SCHEMA,
        "flags": flags,
        "metadata": {"flagSetId": "tierwise-routes", "version": str(routes.version)},
    }
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def _flag(one: TaskRoute) -> dict[str, Any]:
    names = dict.fromkeys((one.primary, *one.shares, *one.conditional))
    targeting: Any = None
    if len(one.shares) > 1:
        key = {"cat": [{"var": "$flagd.flagKey"}, {"var": "targetingKey"}]}
        targeting = {"fractional": [key, *([who, parts] for who, parts in _parts(one.shares).items())]}
        if one.risk != "high":
            targeting = {"if": [{"==": [{"var": "risk"}, "high"]}, one.primary, targeting]}
    for condition, who in reversed(list(zip(one.conditions, one.conditional, strict=True))):
        targeting = {"if": [_rule(condition), who, one.primary if targeting is None else targeting]}
    found: dict[str, Any] = {
        "state": "ENABLED",
        "variants": {name: name for name in names},
        "defaultVariant": one.primary,
    }
    if targeting is not None:
        found["targeting"] = targeting
    metadata = {"tier": one.tier, "fallbacks": ",".join(one.fallbacks)}
    if metadata := {name: value for name, value in metadata.items() if value}:
        found["metadata"] = metadata
    return found


def _parts(shares: Any) -> dict[str, int]:
    """Shares as whole parts of one whole; the first takes what rounding leaves, and nobody is rounded away."""
    parts = {who: max(1, round(share * _PARTS)) for who, share in shares.items()}
    first = next(iter(parts))
    parts[first] = max(1, parts[first] + _PARTS - sum(parts.values()))
    return parts


def _rule(condition: Condition) -> Any:
    rules: list[Any] = []
    if condition.risk:
        rules.append({"in": [{"var": "risk"}, list(condition.risk)]})
    if condition.min_input_tokens is not None:
        rules.append({">=": [{"var": "input_tokens"}, condition.min_input_tokens]})
    if condition.max_input_tokens is not None:
        rules.append({"<=": [{"var": "input_tokens"}, condition.max_input_tokens]})
    rules += [{"==": [{"var": f"labels.{name}"}, value]} for name, value in condition.labels.items()]
    if condition.tools is not None:
        rules.append({"==": [{"var": "tools"}, condition.tools]})
    return {"and": rules} if rules else True
