"""`tierwise validate`: every error and warning of policy files, as file:line:column."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from tierwise.core.errors import ConfigError
from tierwise.surfaces.cli.common import clean, config_option, emit_json, json_option, out, read_settings, say
from tierwise.surfaces.cli.manual import manual

if TYPE_CHECKING:
    from tierwise.config import Findings


@click.command(
    "validate",
    epilog=manual(
        "tierwise validate", "tierwise validate conf/*.yaml --json", fault="wrong use, or a policy has errors"
    ),
)
@click.argument("files", nargs=-1, metavar="[FILE]...")
@json_option
@config_option
def command(files: tuple[str, ...], as_json: bool, config: str | None) -> None:
    """Check policy files (default: the one in force); exit 2 when there are errors, 0 with warnings alone."""
    from tierwise.config import Findings, check_policy

    named = (*files, *((config,) if config is not None else ())) or _in_force()
    results: list[tuple[Findings, str | None]] = []
    for name in named:
        try:
            results.append((check_policy(name), None))
        except ConfigError as error:
            results.append((Findings(path=name), str(error)))
    failed = any(findings.errors or unreadable for findings, unreadable in results)
    if as_json:
        emit_json([_document(findings, unreadable) for findings, unreadable in results])
    else:
        for findings, unreadable in results:
            _show(findings, unreadable)
    if failed:
        raise click.exceptions.Exit(2)


def _in_force() -> tuple[str, ...]:
    path = read_settings().config_path
    if path is None:
        raise ConfigError("no tierwise.yaml here or above, and TIERWISE_CONFIG is not set; name a file")
    return (str(path),)


def _show(findings: Findings, unreadable: str | None) -> None:
    console = out()
    for error in [unreadable] if unreadable is not None else findings.errors:
        console.print(clean(f"{error}"), style="red", soft_wrap=True)
    for warning in findings.warnings:
        place, message = f"{warning.path}:{warning.line}:{warning.column}", warning.message
        console.print(clean(f"{place}: warning: {message}"), style="yellow", soft_wrap=True)
    if unreadable is not None or findings.errors:
        return
    policy = findings.policy
    tasks = 0 if policy is None else len(policy.tasks) + (policy.default is not None)
    warnings = f", {len(findings.warnings)} warning(s)" if findings.warnings else ""
    say(f"{findings.path}: valid, {tasks} task(s){warnings}", style="green")


def _document(findings: Findings, unreadable: str | None) -> dict[str, object]:
    errors: list[object] = [asdict(error) for error in findings.errors]
    if unreadable is not None:
        errors = [{"path": findings.path, "line": 1, "column": 1, "severity": "error", "message": unreadable}]
    return {
        "path": findings.path,
        "valid": not errors,
        "errors": errors,
        "warnings": [asdict(warning) for warning in findings.warnings],
    }
