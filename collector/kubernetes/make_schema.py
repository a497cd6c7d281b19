"""Writes schema.json, the JSON Schema of the kinds in collector.yaml, from the models of the Kubernetes Python client.

Run: uv run --isolated --no-project --with kubernetes==37.0.2 python collector/kubernetes/make_schema.py
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import kubernetes
from kubernetes import client

KINDS = {
    ("v1", "Service"): "V1Service",
    ("apps/v1", "StatefulSet"): "V1StatefulSet",
    ("policy/v1", "PodDisruptionBudget"): "V1PodDisruptionBudget",
}
PLAIN: dict[str, dict[str, Any]] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "bool": {"type": "boolean"},
    "float": {"type": "number"},
    "datetime": {"type": "string"},
    "IntOrString": {"type": ["string", "integer"]},
    "object": {},
}


def of_type(name: str, known: dict[str, Any]) -> dict[str, Any]:
    """The schema of one type as the models write it."""
    if found := re.fullmatch(r"(?i)list\[(.*)\]", name):
        return {"type": "array", "items": of_type(found[1], known)}
    if found := re.fullmatch(r"(?i)dict(?:\(|\[)str, (.*)(?:\)|\])", name):
        return {"type": "object", "additionalProperties": of_type(found[1], known)}
    if name in PLAIN:
        return PLAIN[name]
    if name not in known:
        known[name] = {}
        model = getattr(client, name)
        properties = {model.attribute_map[field]: of_type(kind, known) for field, kind in model.openapi_types.items()}
        known[name] = {"type": "object", "additionalProperties": False, "properties": properties}
        demanded = re.findall(r"client_side_validation and (\w+) is None", inspect.getsource(model))
        if demanded:
            known[name]["required"] = sorted(model.attribute_map[field] for field in demanded)
    return {"$ref": f"#/$defs/{name}"}


def main() -> None:
    """Write the schema beside this file."""
    known: dict[str, Any] = {}
    branches = []
    for (version, kind), model in KINDS.items():
        given = {"properties": {"kind": {"const": kind}, "apiVersion": {"const": version}}}
        branches.append({"if": given | {"required": ["kind", "apiVersion"]}, "then": of_type(model, known)})
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$comment": f"The kinds of collector.yaml, from the models of the Kubernetes Python client {kubernetes.__version__}.",
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {"kind": {"enum": [kind for _, kind in KINDS]}},
        "allOf": branches,
        "$defs": dict(sorted(known.items())),
    }
    Path(__file__).with_name("schema.json").write_text(json.dumps(schema, separators=(",", ":")) + "\n", "utf-8")


if __name__ == "__main__":
    main()
