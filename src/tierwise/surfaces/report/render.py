"""View → one HTML document with everything inlined, and its atomic, owner-only way to disk."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import tempfile
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from tierwise.surfaces.report.data import ReportView

MEASURES: Final = (
    "Runs", "Avg latency", "Median latency", "p95 latency", "Fastest", "Slowest", "Task score", "Avg output size (characters)",
    "Non-stop finish reasons", "JSON validity", "Retries", "Cost", "Cost per success",
)  # fmt: skip
"""Rows of the comparison table, in the order of `ModelRow.cells`."""


def render(view: ReportView) -> str:
    """The page as HTML text. Every value is escaped; the policy in the page allows this one style sheet and nothing else."""
    style = _style()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode("ascii")
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            view=view,
            measures=MEASURES,
            style=Markup(style),  # noqa: S704 - our own file, no value from outside
            style_hash=Markup(f"sha256-{digest}"),  # noqa: S704 - base64 only
        )
    )


def write(path: Path, text: str) -> Path:
    """Write a file that only its owner can read, completely or not at all.

    Raises:
        OSError: the folder cannot be made or written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:50]}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def ticks(text: str) -> Markup:
    """Text with what stands between backticks as code; everything is escaped."""
    parts = re.split("`([^`]+)`", text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part) for number, part in enumerate(parts)
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("tierwise.surfaces.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters["ticks"] = ticks
    return environment


@cache
def _style() -> str:
    source = files("tierwise.surfaces.report").joinpath("templates/style.css").read_text(encoding="utf-8")
    return "\n" + "\n".join(line.strip() for line in source.splitlines() if line.strip()) + "\n"
