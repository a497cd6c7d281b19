"""Who may send to the Collector, and how what comes in is bounded, sampled and redacted."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from support import stack
from support.commands import tierwise
from support.stack_senders import TraceSink, one_span, post

StartCollector = Callable[[Path, Mapping[str, str]], stack.Running]
FORMS = ("config.yaml", "config-durable.yaml")


@pytest.mark.parametrize("form", FORMS)
def test_only_the_token_opens(collector: StartCollector, form: str) -> None:
    """With TIERWISE_COLLECTOR_AUTH a request without the token, or with another, is refused."""
    running = collector(
        stack.COLLECTOR / form, {"TIERWISE_COLLECTOR_AUTH": "true", "TIERWISE_COLLECTOR_TOKEN": "let-me-in"}
    )
    assert post(running.url, one_span("shop"), token="let-me-in") == 200
    assert post(running.url, one_span("shop"), token="let-me-out") == 401
    assert post(running.url, one_span("shop")) == 401


def test_nobody_is_let_in_while_the_token_is_missing(collector: StartCollector) -> None:
    """Asking for a token that nobody set shuts the door instead of opening it."""
    running = collector(stack.COLLECTOR / "config.yaml", {"TIERWISE_COLLECTOR_AUTH": "true"})
    assert [post(running.url, one_span("shop"), token=token) for token in (None, "", " ", "true", "unused")] == [
        401
    ] * 5


def test_tls_by_variables(collector: StartCollector, tmp_path: Path) -> None:
    """With TIERWISE_COLLECTOR_TLS and a certificate the receiver speaks TLS and nothing else."""
    openssl = shutil.which("openssl")
    assert openssl, "openssl is needed to make a certificate"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        check=True, cwd=tmp_path, capture_output=True,
    )  # fmt: skip
    running = collector(
        stack.COLLECTOR / "config.yaml",
        {
            "TIERWISE_COLLECTOR_TLS": "true", "TIERWISE_COLLECTOR_CERT_FILE": str(tmp_path / "cert.pem"),
            "TIERWISE_COLLECTOR_KEY_FILE": str(tmp_path / "key.pem"),
        },
    )  # fmt: skip
    context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    url = running.url.replace("http://", "https://") + "/v1/traces"
    headers = {"content-type": "application/x-protobuf"}
    request = urllib.request.Request(url, one_span("shop").SerializeToString(), headers)  # noqa: S310
    with urllib.request.urlopen(request, context=context, timeout=10) as answer:  # noqa: S310
        assert answer.status == 200
    assert post(running.url, one_span("shop")) != 200


def test_metrics_count_what_sampling_leaves_out(prometheus: stack.Running, collector: StartCollector) -> None:
    """Of a hundred calls all are counted though only the failed ones and a share of the rest are kept as traces."""
    with TraceSink() as sink:
        running = collector(
            stack.COLLECTOR / "config.yaml",
            {
                "TIERWISE_METRICS_ENDPOINT": stack.metrics_endpoint(prometheus), "TIERWISE_TRACES_PERCENT": "0",
                "TIERWISE_TRACES_EXPORTERS": "[otlp_http/traces]", "TIERWISE_TRACES_ENDPOINT": sink.url,
            },
        )  # fmt: skip
        for number in range(100):
            reason = '["length"]' if number % 10 == 9 else '["stop"]'
            span = one_span("shop", **{"gen_ai.response.finish_reasons": reason, "gen_ai.agent.name": "planner"})
            assert post(running.url, span) == 200
        total = 'sum(last_over_time(tierwise_calls_total{tierwise_task="planner"}[1h]))'
        assert stack.eventually(lambda: stack.number(prometheus, total), 100) == 100
        assert stack.eventually(lambda: len(sink.spans()), 10) == 10
        assert {span["tierwise.outcome"] for span in sink.spans()} == {"truncated"}


TASKS = {
    "a": {"tierwise.task": "named", "gen_ai.prompt.name": "prompt", "gen_ai.agent.name": "agent"},
    "b": {"gen_ai.prompt.name": "prompt", "gen_ai.agent.name": "agent"},
    "c": {"gen_ai.agent.name": "agent"},
    "d": {},
}
OUTCOMES = {
    "cancelled": {"error.type": "asyncio.CancelledError"},
    "rejected": {"error.type": "openai.BadRequestError"},
    "error": {"error.type": "TimeoutError"},
    "filtered": {"gen_ai.response.finish_reasons": '["stop","content_filter: RECITATION"]'},
    "refused": {"gen_ai.response.finish_reasons": '["refusal"]'},
    "truncated": {"llm.response.finish_reason": "MAX_TOKENS"},
    "empty": {"gen_ai.usage.output_tokens": 0},
    "tool_arguments_invalid": {"gen_ai.response.finish_reasons": '["malformed_function_call"]'},
    "success": {"gen_ai.response.finish_reasons": '["tool_calls"]'},
}


def test_task_and_outcome_of_a_foreign_span(prometheus: stack.Running, collector: StartCollector) -> None:
    """The task is the first name that the span has; the outcome is the gravest that it shows."""
    running = collector(
        stack.COLLECTOR / "config.yaml", {"TIERWISE_METRICS_ENDPOINT": stack.metrics_endpoint(prometheus)}
    )
    for service, attributes in TASKS.items():
        assert post(running.url, one_span(service, **attributes)) == 200
    for outcome, attributes in OUTCOMES.items():
        assert post(running.url, one_span(f"outcome-{outcome}", **attributes)) == 200
    for other in ({"gen_ai.operation.name": "invoke_agent"}, {"gen_ai.operation.name": "execute_tool"}):
        assert post(running.url, one_span("no-call", **other)) == 200
    wanted = {"a": "named", "b": "prompt", "c": "agent", "d": "d"}
    wanted |= {f"outcome-{outcome}": f"outcome-{outcome}" for outcome in OUTCOMES}

    def tasks() -> dict[str, str]:
        rows = stack.query(prometheus, "last_over_time(tierwise_calls_total[1h])")
        return {row["metric"]["service_name"]: row["metric"]["tierwise_task"] for row in rows}

    assert stack.eventually(tasks, wanted) == wanted
    rows = stack.query(prometheus, 'last_over_time(tierwise_calls_total{service_name=~"outcome-.*"}[1h])')
    assert {row["metric"]["service_name"]: row["metric"]["tierwise_outcome"] for row in rows} == {
        f"outcome-{outcome}": outcome for outcome in OUTCOMES
    }


@pytest.mark.parametrize("form", FORMS)
def test_check_asks_the_real_collector(stack_binaries: stack.Binaries, tmp_path: Path, form: str) -> None:
    """`tierwise collector check --otelcol` finds the configuration fine, and a wrong setting that only the program knows."""
    program = str(stack_binaries.otelcol)
    assert tierwise("collector", "check", str(stack.COLLECTOR / form), "--otelcol", program).exit_code == 0
    broken = tmp_path / form
    broken.write_text((stack.COLLECTOR / form).read_text().replace("max_stale: 720h", "max_stales: 720h"))
    done = tierwise("collector", "check", str(broken), "--otelcol", program)
    assert done.exit_code == 1
    assert "max_stales" in done.stdout
