"""What `tierwise export` writes, loaded by those who read it: LiteLLM's Router and proxy configuration, flagd's provider.

Each runs in an environment of its own; nothing leaves this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from support.commands import tierwise
from tierwise.core.route import Canary, Route, RouteTable
from tierwise.routing import write_table

pytestmark = pytest.mark.gateway

LITELLM = "litellm==1.106.2"
FLAGD = ("openfeature-provider-flagd==0.6.1", "openfeature-sdk==0.10.0")
RUNS = 400
POLICY = """
tiers: {fast: [alpha, beta]}
tasks:
  strict-json: {candidates: [alpha, beta, gamma]}
  broken-first: {candidates: [dead, beta]}
  chat:
    candidates: [alpha, beta]
    conditions:
      - {when: {risk: high}, candidates: [gamma]}
      - {when: {input_tokens: ">= 20000", labels: {plan: pro}, tools: true}, candidates: [beta]}
  "*": {candidates: [fast]}
"""
TABLE = RouteTable(
    routes={
        "strict-json": Route(task="strict-json", primary="beta", canary=Canary(candidate="gamma", share=0.25)),
        "chat": Route(task="chat", primary="alpha", propensities={"alpha": 0.9, "beta": 0.1}),
    }
)


def run(packages: tuple[str, ...], script: str, *arguments: str, **environment: str) -> Any:
    """Run a script with packages of its own; what it prints last, as JSON."""
    uv = shutil.which("uv")
    assert uv is not None, "these tests need uv on the path: pip install uv"
    command = [uv, "run", "--isolated", "--no-project"]
    for package in packages:
        command += ["--with", package]
    unwanted = ("OPENAI_", "OTEL_", "TIERWISE_", "LITELLM_", "VIRTUAL_ENV", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    done = subprocess.run(
        [*command, "python", "-c", textwrap.dedent(script), *arguments],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a policy and a route file."""
    (tmp_path / "tierwise.yaml").write_text(POLICY, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / ".tierwise" / "routes.json", TABLE, expected_version=0)
    return tmp_path


@pytest.fixture
def gateway() -> Iterator[str]:
    """An OpenAI-compatible server that answers with the model's name; `dead` is always overloaded."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            model = json.loads(self.rfile.read(int(self.headers["content-length"])))["model"]
            message = {"role": "assistant", "content": f"{model} {self.headers['authorization']}"}
            body: Any = {
                "id": "c", "object": "chat.completion", "created": 1, "model": model,
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
            }  # fmt: skip
            if model == "dead":
                body = {"error": {"message": "overloaded", "type": "server_error"}}
            data = json.dumps(body).encode()
            self.send_response(503 if model == "dead" else 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


ROUTER = """
    import collections, json, sys, yaml
    from litellm import Router
    config = yaml.safe_load(open(sys.argv[1]))
    router = Router(model_list=config["model_list"], **config["router_settings"], num_retries=0, disable_cooldowns=True)
    def ask(name):
        answer = router.completion(model=name, messages=[{"role": "user", "content": "Hi."}])
        return answer.choices[0].message.content
    counts = collections.Counter(ask("strict-json").split()[0] for _ in range(int(sys.argv[2])))
    names = ["alpha", "fast", "auto", "broken-first"]
    print(json.dumps({"counts": counts, "asked": {name: ask(name) for name in names}, "groups": router.get_model_names()}))
"""


def test_litellms_router_follows_the_export(project: Path, gateway: str) -> None:
    """The Router loads it: shares become weights, fallbacks take over, groups are there, keys come from their variable."""
    path = project / "litellm.yaml"
    options = ("--api-base", gateway, "--api-key-env", "GATEWAY_KEY", "-o", str(path))
    result = tierwise("export", "--format", "litellm", *options)
    assert result.exit_code == 0, result.stderr
    found = run(
        (LITELLM,), ROUTER, str(path), str(RUNS), GATEWAY_KEY="sk-planted", LITELLM_LOCAL_MODEL_COST_MAP="True"
    )  # fmt: skip
    assert set(found["counts"]) == {"beta", "gamma"}
    assert 0.6 < found["counts"]["beta"] / RUNS < 0.9  # 0.75; seven standard deviations
    assert found["asked"] == {
        "alpha": "alpha Bearer sk-planted",
        "fast": "alpha Bearer sk-planted",
        "auto": "alpha Bearer sk-planted",
        "broken-first": "beta Bearer sk-planted",
    }
    assert {"strict-json", "broken-first", "chat", "auto", "fast", "alpha", "beta", "gamma"} <= set(found["groups"])
    assert "sk-planted" not in path.read_text(encoding="utf-8")


FLAGS = """
    import collections, json, sys
    from openfeature import api
    from openfeature.contrib.provider.flagd import FlagdProvider
    from openfeature.contrib.provider.flagd.config import ResolverType
    from openfeature.evaluation_context import EvaluationContext
    api.set_provider_and_wait(FlagdProvider(resolver_type=ResolverType.FILE, offline_flag_source_path=sys.argv[1]))
    client = api.get_client()
    def ask(flag, run="r", **attributes):
        found = client.get_string_details(flag, "wrong", EvaluationContext(targeting_key=run, attributes=attributes))
        assert found.error_code is None, found
        return found.value
    counts = collections.Counter(ask("strict-json", f"run-{n}") for n in range(int(sys.argv[2])))
    sticky = len({ask("strict-json", "one-run") for _ in range(20)})
    pro = {"plan": "pro"}
    asked = {
        "default": ask("default"),
        "high": ask("chat", risk="high"),
        "risky-split": ask("strict-json", risk="high"),
        "long": ask("chat", input_tokens=20000, labels=pro, tools=True),
        "short": [ask("chat", f"r{n}", input_tokens=19999, labels=pro, tools=True) for n in range(50)].count("alpha") > 30,
    }
    metadata = dict(client.get_string_details("strict-json", "wrong").flag_metadata)
    api.shutdown()
    print(json.dumps({"counts": counts, "sticky": sticky, "asked": asked, "metadata": metadata}))
"""


def test_flagds_provider_follows_the_export(project: Path) -> None:
    """The provider's file mode loads it: fractions split by run, the same run stays, conditions and risk decide first."""
    path = project / "flags.json"
    result = tierwise("export", "--format", "flagd", "-o", str(path))
    assert result.exit_code == 0, result.stderr
    found = run(FLAGD, FLAGS, str(path), str(RUNS))
    assert set(found["counts"]) == {"beta", "gamma"}
    assert 0.6 < found["counts"]["beta"] / RUNS < 0.9
    assert found["sticky"] == 1
    assert found["asked"] == {"default": "alpha", "high": "gamma", "risky-split": "beta", "long": "beta", "short": True}
    assert found["metadata"]["fallbacks"] == "alpha,gamma"


IMPORTED = """
    import json, sys, yaml
    from litellm import Router
    config = yaml.safe_load(open(sys.argv[1]))
    router = Router(model_list=config["model_list"], **config["router_settings"])
    print(json.dumps(sorted(router.get_model_names())))
"""


def test_what_is_exported_is_imported_again(project: Path, gateway: str) -> None:
    """A policy made from an export has its tasks with the same candidates, and validates."""
    path, again = project / "litellm.yaml", project / "again.yaml"
    assert tierwise("export", "--format", "litellm", "--api-base", gateway, "-o", str(path)).exit_code == 0
    assert "strict-json" in run(
        (LITELLM,), IMPORTED, str(path), LITELLM_LOCAL_MODEL_COST_MAP="True", OPENAI_API_KEY="none"
    )
    assert tierwise("import", "litellm", str(path), "-o", str(again)).exit_code == 0
    assert tierwise("validate", str(again)).exit_code == 0
    from tierwise.config import load_policy

    policy = load_policy(again)
    assert set(policy.tasks["strict-json"].candidates) == {"beta", "gamma", "alpha"}
    assert policy.tasks["broken-first"].candidates == ("dead", "beta")
    assert policy.default is not None
    assert policy.default.candidates == ("alpha", "beta")
    assert {spec.base_url for spec in policy.models.values()} == {gateway}
