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

from tierwise.surfaces.report.view import ReportView

MEASURES: Final = (
    "Runs", "Avg latency", "Median latency", "p95 latency", "Fastest", "Slowest", "Task score", "Avg output size (characters)",
    "Non-stop finish reasons", "JSON validity", "Retries", "Cost", "Cost per success",
)  # fmt: skip
"""Rows of the comparison table, in the order of `ModelRow.cells`."""


def render(view: ReportView) -> str:
    """The page as HTML text. Every value is escaped; the policy in the page allows its own style and scripts, nothing else."""
    return page("report.html.j2", view=view, measures=MEASURES, data=view.charts_json, in_file=True)


def page(
    template: str, *, in_file: bool = False, data: str | None = None, live: object = None, **values: object
) -> str:
    """Any page of ours from a template that extends `layout.html.j2`; `data` (JSON without `<`) brings the chart library along.

    A page in a file carries its policy with it; a served one gets it as a header, see `policy_of`.
    """
    texts = {
        "style": Markup(_style()),  # noqa: S704 - our own file, no value from outside
        "script": Markup(_text("templates/page.js")),  # noqa: S704 - our own file
        "library": Markup(_library()),  # noqa: S704 - uPlot's own file and its licence
        "data": None if data is None else Markup(data),  # noqa: S704 - JSON in which no `<` is left
        "policy": Markup(policy_of(served=False)) if in_file else None,  # noqa: S704 - hashes and keywords only
    }
    return _environment().get_template(template).render(live=live, **texts, **values)


@cache
def policy_of(*, served: bool) -> str:
    """The Content-Security-Policy: our style sheet and scripts by their hashes; served pages may ask and post to their own
    server, and stand in no frame."""
    scripts = " ".join(_digest(text) for text in (_library(), _text("templates/page.js")))
    common = f"default-src 'none'; style-src {_digest(_style())}; script-src {scripts}; base-uri 'none'"
    if served:
        return f"{common}; connect-src 'self'; form-action 'self'; frame-ancestors 'none'"
    return f"{common}; form-action 'none'"


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


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
    source = _text("vendor/uplot.min.css") + "\n" + _text("templates/style.css")
    return "\n" + "\n".join(line.strip() for line in source.splitlines() if line.strip()) + "\n"


@cache
def _library() -> str:
    return f"/*\n{_text('vendor/uplot.LICENSE').strip()}\n*/\n{_text('vendor/uplot.iife.min.js')}"


@cache
def _text(name: str) -> str:
    return files("tierwise.surfaces.report").joinpath(name).read_text(encoding="utf-8")
