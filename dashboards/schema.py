"""Checks the dashboards against Grafana's own types: `python -m dashboards.schema` (needs npm; keeps its packages in a cache)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent
PACKAGES: Final = {"@grafana/schema": "12.2.0", "typescript": "5.6.3"}
"""Of the Grafana in `collector/compose.yaml`."""
ANNOTATION: Final = ("expr", "step", "titleFormat", "textFormat", "tagKeys")
"""What the Prometheus data source adds to annotations, which the common type does not have."""
PANELS: Final = {"timeseries": "TimeSeries", "stat": "Stat", "table": "Table"}
TYPES: Final = """\
import type { AnnotationQuery, Dashboard, Panel, RowPanel } from '@grafana/schema';
// Enumerations as the strings that JSON has; every property is checked, none may be unknown.
type Plain<T> = T extends string ? `${T}`
  : T extends number | boolean | null | undefined ? T
  : T extends (infer U)[] ? Plain<U>[]
  : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;
"""


def main() -> int:
    """Compile all dashboards as typed values; returns the exit code, complaints go to stderr."""
    npm = shutil.which("npm")
    if npm is None:
        sys.stderr.write("npm is not installed, and it brings Grafana's types. Install Node.js 20 or newer.\n")
        return 2
    folder = _packages(npm)
    (folder / "dashboards.ts").write_text(_source(), "utf-8")
    done = subprocess.run(  # noqa: S603 - the compiler that was installed above
        [
            str(folder / "node_modules" / ".bin" / "tsc"), "--noEmit", "--strict", "--skipLibCheck", "--module", "esnext",
            "--moduleResolution", "bundler", "--target", "es2022", "dashboards.ts",
        ],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    sys.stderr.write(done.stdout + done.stderr)
    return done.returncode


def _packages(npm: str) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "tierwise" / "stack" / f"grafana-schema-{PACKAGES['@grafana/schema']}"
    if not (folder / "node_modules" / ".bin" / "tsc").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"private": true}\n', "utf-8")
        wanted = [f"{name}@{version}" for name, version in PACKAGES.items()]
        subprocess.run(  # noqa: S603 - npm, with pinned versions and without their scripts
            [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--silent", *wanted], cwd=folder, check=True
        )
    return folder


def _source() -> str:
    """A TypeScript module with every dashboard, annotation and panel as a value of its type."""
    out = [TYPES]
    for kind, name in PANELS.items():
        place = f"./node_modules/@grafana/schema/dist/types/raw/composable/{kind}/panelcfg/x/{name}PanelCfg_types.gen"
        out.append(f"import type * as {kind} from '{place}';")
    for path in sorted(HERE.glob("*.json")):
        whole: dict[str, Any] = json.loads(path.read_text("utf-8"))
        name = path.stem.replace("-", "_")
        panels, annotations = whole.pop("panels"), whole.pop("annotations")
        out.append(_value(name, "Omit<Dashboard, 'panels' | 'annotations'>", whole))
        for number, one in enumerate(annotations["list"]):
            common = {key: value for key, value in one.items() if key not in ANNOTATION}
            out.append(_value(f"{name}_annotation_{number}", "AnnotationQuery", common))
        for panel in panels:
            label = f"{name}_panel_{panel['id']}"
            out.append(_value(label, "RowPanel" if panel["type"] == "row" else "Panel", panel))
            if panel["type"] != "row":
                kind = panel["type"]
                out.append(_value(f"{label}_options", f"Partial<{kind}.Options>", panel["options"]))
            if panel["type"] == "timeseries":
                drawn = panel["fieldConfig"]["defaults"]["custom"]
                out.append(_value(f"{label}_custom", "Partial<timeseries.FieldConfig>", drawn))
    return "\n".join(out) + "\n"


def _value(name: str, kind: str, value: object) -> str:
    return f"export const {name}: Plain<{kind}> = {json.dumps(value, indent=1)};"


if __name__ == "__main__":
    sys.exit(main())
