"""`tierwise collector`: write the Collector's configuration and deployment files, and check one before it runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

import click

from tierwise.core.errors import ConfigError
from tierwise.surfaces.cli.common import clean, emit_json, json_option, out, say
from tierwise.surfaces.cli.manual import manual

CONFIGS: Final = {False: "config.yaml", True: "config-durable.yaml"}
PARTS: Final = {
    "compose": ("compose.yaml", "prometheus/prometheus.yml", "prometheus/rules", "grafana"),
    "kubernetes": ("kubernetes",),
}
PROGRAMS: Final = ("otelcol-contrib", "otelcol")
_VALIDATE_S: Final = 60.0
_LEAVE_OUT: Final = (".py", ".j2", ".pyc", ".json")


@click.group(
    "collector", epilog=manual("tierwise collector init --durable", "tierwise collector check config-durable.yaml")
)
def command() -> None:
    """An OpenTelemetry Collector for a fleet: its configuration, and how to run it. docs/fleet.md explains both."""


@command.command(
    "init",
    epilog=manual(
        "tierwise collector init --durable",
        "tierwise collector init --durable --compose --dir deploy",
        fault="wrong use, or a file is there already and differs",
    ),
)
@click.option("--durable", is_flag=True, help="Queues on disk: nothing acknowledged is lost when something dies.")
@click.option("--compose", is_flag=True, help="Also a Compose file with Prometheus and Grafana, dashboards included.")
@click.option("--kubernetes", is_flag=True, help="Also Kubernetes manifests (kustomize).")
@click.option(
    "--dir", "folder", type=click.Path(file_okay=False, path_type=Path), default=Path(), help="Where; . by default."
)
@click.option("--force", is_flag=True, help="Replace files that are there and differ.")
@click.option("--dry-run", is_flag=True, help="Say what would be written; write nothing.")
@json_option
def init(
    durable: bool, compose: bool, kubernetes: bool, folder: Path, force: bool, dry_run: bool, as_json: bool
) -> None:
    """Write a configuration that the stock otelcol-contrib runs as it is.

    Files that are there already and differ are left alone, with exit 2, unless --force is given.
    """
    wanted = [CONFIGS[durable]]
    wanted += PARTS["compose"] if compose else ()
    wanted += PARTS["kubernetes"] if kubernetes else ()
    texts = _texts(wanted)
    if compose:
        texts |= _dashboards()
    if compose:
        texts |= _texts([CONFIGS[True]])
    if kubernetes:
        # kustomize takes files from its own folder only.
        texts["kubernetes/config-durable.yaml"] = _texts([CONFIGS[True]])[CONFIGS[True]]
    changed = [name for name, text in texts.items() if _differs(folder / name, text)]
    kept = [name for name in changed if (folder / name).exists()]
    if kept and not force:
        raise ConfigError(
            f"{', '.join(str(folder / name) for name in kept)}: there already, and different; "
            "choose another --dir, or --force to replace what is there"
        )
    if not dry_run:
        for name in changed:
            _write(folder / name, texts[name])
    if as_json:
        emit_json({"written": [str(folder / name) for name in changed], "dry_run": dry_run})
        return
    for name in changed:
        say(f"{'would write' if dry_run else 'wrote'} {folder / name}")
    if not changed:
        say("everything is there already")
    say(f"Run it: otelcol-contrib --config {folder / CONFIGS[durable]}   (variables: see the top of the file)")


@command.command(
    "check",
    short_help="Check a Collector configuration.",
    epilog=manual(
        "tierwise collector check config.yaml",
        "tierwise collector check config.yaml --otelcol /usr/bin/otelcol-contrib",
        finding="it would not run, or not count rightly",
        fault="wrong use, or the file cannot be read",
    ),
)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--otelcol", type=click.Path(dir_okay=False, path_type=Path), help="The Collector's program; else from PATH."
)
@json_option
def check(file: Path, otelcol: Path | None, as_json: bool) -> None:
    """Check a Collector configuration, with the variables set now; exit 1 when it would not run or not be right.

    With otelcol-contrib or otelcol on PATH, or named, the program itself validates it. In any case its components,
    pipelines and the metrics derived for tierwise are checked here.
    """
    from tierwise.surfaces.cli.collector_check import findings

    program = _program(otelcol)
    found = findings(file, os.environ)
    errors, warnings = list(found.errors), list(found.warnings)
    if program is not None:
        errors += _validate(program, file)
    if as_json:
        emit_json({"file": str(file), "otelcol": program, "errors": errors, "warnings": warnings})
    else:
        for message in errors:
            out().print(clean(f"{file}: error: {message}", keep="\n"), soft_wrap=True)
        for message in warnings:
            out().print(clean(f"{file}: warning: {message}", keep="\n"), soft_wrap=True)
        how = f"checked by {program} and by tierwise" if program else "checked by tierwise; no otelcol-contrib on PATH"
        say(f"{file}: {'not right' if errors else 'fine'} ({how})")
    if errors:
        raise click.exceptions.Exit(1)


def _program(named: Path | None) -> str | None:
    """The Collector to ask, `None` without one. Raises `ConfigError` for one that was named and is not there."""
    if named is None:
        return next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    found = shutil.which(str(named.absolute() if named.exists() else named))
    if found is None:
        raise ConfigError(f"--otelcol {named}: no such program, or not executable")
    return found


def _validate(program: str, file: Path) -> list[str]:
    try:
        done = subprocess.run(  # noqa: S603 - the user named the program
            [program, "validate", f"--config={file}"], capture_output=True, text=True, timeout=_VALIDATE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{program} cannot validate: {error}") from None
    if done.returncode == 0:
        return []
    lines = [line.removeprefix("Error: ").strip() for line in done.stderr.splitlines() if line.strip()]
    return lines or [f"{program} validate ended with {done.returncode}"]


def _folder(name: str) -> Path:
    """A folder of shipped files: inside the installed package, or in the checkout."""
    package = Path(__file__).resolve().parents[2]
    for folder in (package / "_shipped" / name, package.parents[1] / name):
        if folder.is_dir():
            return folder
    raise ConfigError(f"the installation has no {name} files; reinstall tierwise")


def _texts(names: list[str]) -> dict[str, str]:
    """Path relative to the target folder -> text, for files and whole folders."""
    root = _folder("collector")
    found: dict[str, str] = {}
    for name in names:
        path = root / name
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if file.is_file() and file.suffix not in _LEAVE_OUT:
                found[file.relative_to(root).as_posix()] = file.read_text("utf-8")
    return found


def _dashboards() -> dict[str, str]:
    root = _folder("dashboards")
    return {f"dashboards/{file.name}": file.read_text("utf-8") for file in sorted(root.rglob("*.json"))}


def _differs(path: Path, text: str) -> bool:
    try:
        return path.read_text("utf-8") != text
    except FileNotFoundError:
        return True
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.unlink(missing_ok=True)
        with temporary.open("x", encoding="utf-8") as file:  # never through a link that somebody laid there
            file.write(text)
        temporary.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
