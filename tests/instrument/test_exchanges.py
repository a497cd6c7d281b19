"""Recorded exchanges of many providers: the caller sees what a bare client shows, tierwise what the recording says."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from support.exchange_report import Rig, replay
from support.exchanges import FOLDER, Exchange, exchange, load, names


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """tierwise on in-memory exporters, with both families of metric names."""
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", "gen_ai_latest_experimental/dup")
    made = Rig()
    yield made
    made.close()


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("name", names())
def test_exchange(rig: Rig, name: str, mode: str) -> None:
    """One span and one call that say what the recording says; the caller cannot tell that anybody looked."""
    assert replay(exchange(name), rig, asynchronous=mode == "async") == []


# -- the harness itself: whatever is wrong is reported -------------------------------------------------------------

PLAIN, STREAM, RETRIED = "openai-chat-plain", "openai-stream-usage-asked-by-tierwise", "openai-429-then-success"
REFUSED, CUT, FORM = "openai-401", "openai-length-before-any-text", "openai-json-schema-holds"
REASONING = "openai-chat-cached-and-reasoning"

WRONG: list[tuple[str, str, Any, str]] = [
    (PLAIN, "sees.type", "Completion", "bare type"),
    (PLAIN, "sees.text", "Goodbye.", "bare text"),
    (STREAM, "sees.chunks", 6, "bare chunks"),
    (PLAIN, "sees.raises", "RateLimitError", "bare exception"),
    (REFUSED, "sees.status", 403, "bare status"),
    (REFUSED, "sees.message", "no such words", "bare message"),
    (RETRIED, "sees.waits", [8], "bare waits"),
    (STREAM, "asks_usage", False, "sent: body"),
    (PLAIN, "asks_usage", True, "sent: stream_options"),
    (PLAIN, "provider", "groq", "span gen_ai.provider.name"),
    (PLAIN, "outcome", "truncated", "span tierwise.outcome"),
    (PLAIN, "outcome", "truncated", "call: outcome"),
    (PLAIN, "outcome", "truncated", "metric tierwise.calls"),
    (PLAIN, "id", "chatcmpl-other", "span gen_ai.response.id"),
    (PLAIN, "model", "gpt-5", "span gen_ai.response.model"),
    (PLAIN, "finish_reasons", ["length"], "span gen_ai.response.finish_reasons"),
    (PLAIN, "finish_reasons", ["length"], "call: finish_reasons"),
    (PLAIN, "service_tier", "flex", "span openai.response.service_tier"),
    (PLAIN, "fingerprint", "fp_other", "span openai.response.system_fingerprint"),
    (PLAIN, "tokens", {"input": 19, "output": 11}, "span gen_ai.usage.output_tokens"),
    (PLAIN, "tokens", {"input": 19, "output": 11}, "call: tokens"),
    (PLAIN, "tokens", {"input": 19, "output": 11}, "metric gen_ai.client.token.usage"),
    (PLAIN, "tokens", {"input": 19, "output": 11}, "metric gen_ai.client.inference.operation.output_tokens"),
    (PLAIN, "tokens", {"input": 19, "output": 11}, "metric tierwise.call.tokens"),
    (PLAIN, "tokens", {"input": 19, "output": 10, "reasoning": 1}, "span gen_ai.usage.reasoning.output_tokens"),
    (REASONING, "tokens", {"input": 2006, "output": 300}, "span gen_ai.usage.cache_read.input_tokens: 1920, which"),
    (PLAIN, "tokens", None, "span gen_ai.usage.input_tokens: 19, which the recording does not say"),
    (PLAIN, "cost", {"usd": 0.00002476, "source": "override"}, "span tierwise.cost.amount"),
    (PLAIN, "cost", {"usd": 0.00002475, "source": "provider"}, "call: cost source"),
    (PLAIN, "cost", None, "span tierwise.cost.amount"),
    (FORM, "json_form", "fenced", "span tierwise.json.valid"),
    (FORM, "json_form", None, "span tierwise.json.form: 'plain', which"),
    (REFUSED, "error_type", "NotFoundError", "metric gen_ai.client.operation.duration"),
    (REFUSED, "error_type", None, "span: status"),
    (CUT, "advice", "max_tokens=65", "span tierwise.advice"),
    (CUT, "advice", None, "span: what is measured"),
    (RETRIED, "retries", 2, "metric tierwise.call.retries"),
    (RETRIED, "retries", None, "call: retries"),
    (RETRIED, "tries", [500], "span: tries"),
]


def _with(recorded: Exchange, path: str, value: Any) -> Exchange:
    expected: dict[str, Any] = {**recorded.expected, "sees": dict(recorded.expected["sees"])}
    place, _, name = path.rpartition(".")
    part = expected[place] if place else expected
    if value is None and name != "tokens":
        del part[name]
    else:
        part[name] = value
    return replace(recorded, expected=expected)


@pytest.mark.parametrize(("name", "path", "value", "report"), WRONG)
def test_a_wrong_expectation_is_reported(rig: Rig, name: str, path: str, value: Any, report: str) -> None:
    """An expectation that is not what comes is told by name, in words."""
    found = replay(_with(exchange(name), path, value), rig, asynchronous=False)
    assert any(line.startswith(report) for line in found), found


def test_every_kind_of_expectation_is_shown_to_fail() -> None:
    """No field of an exchange's expectation is without a wrong value above."""
    expected = json.loads((FOLDER / "exchange.schema.json").read_text())["$defs"]["expected"]["properties"]
    kinds = {name for name in expected if name != "sees"} | {f"sees.{name}" for name in expected["sees"]["properties"]}
    assert {path for _, path, _, _ in WRONG} == kinds


def _around(client: Any, change: Callable[[Any, dict[str, Any]], Any]) -> Any:
    completions = client.chat.completions
    bare = completions.create
    completions.create = lambda **arguments: change(bare, arguments)
    return client


def _other_type(create: Any, arguments: dict[str, Any]) -> Any:
    value = create(**arguments)
    value.__class__ = type("Wrapped", (type(value),), {})
    return value


def _other_value(create: Any, arguments: dict[str, Any]) -> Any:
    value = create(**arguments)
    value.choices[0].message.content += " "
    return value


def _other_field_set(create: Any, arguments: dict[str, Any]) -> Any:
    value = create(**arguments)
    value.moderation = None
    return value


def _lost_chunk(create: Any, arguments: dict[str, Any]) -> Any:
    stream = create(**arguments)
    stream._iterator = itertools.islice(stream._iterator, 1, None)
    return stream


def _left_open(create: Any, arguments: dict[str, Any]) -> Any:
    stream = create(**arguments)
    stream._iterator = iter(list(stream._iterator))
    stream.response.is_closed = False
    return stream


def _own_exception(create: Any, arguments: dict[str, Any]) -> Any:
    try:
        return create(**arguments)
    except Exception as error:
        raise RuntimeError(str(error)) from error


def _raised_elsewhere(create: Any, arguments: dict[str, Any]) -> Any:
    try:
        return create(**arguments)
    except Exception as error:
        raise error.with_traceback(None) from error.__cause__


def _more_in_body(create: Any, arguments: dict[str, Any]) -> Any:
    return create(**arguments, user="somebody")


def _more_headers(create: Any, arguments: dict[str, Any]) -> Any:
    return create(**arguments, extra_headers={"traceparent": "00-1-1-01"})


def _asked_twice(create: Any, arguments: dict[str, Any]) -> Any:
    create(**arguments)
    return create(**arguments)


def _changed_arguments(create: Any, arguments: dict[str, Any]) -> Any:
    value = create(**arguments)
    arguments["messages"].append({"role": "assistant", "content": "Hello!"})
    return value


@pytest.mark.parametrize(
    ("name", "change", "report"),
    [
        (PLAIN, _other_type, "caller: type of value 0"),
        (PLAIN, _other_value, "caller: value 0"),
        (PLAIN, _other_field_set, "caller: value 0"),
        (STREAM, _lost_chunk, "caller: number of values"),
        (STREAM, _left_open, "caller: response closed"),
        (REFUSED, _own_exception, "caller: exception"),
        (REFUSED, _raised_elsewhere, "caller: exception"),
        (PLAIN, _more_in_body, "sent: body"),
        (PLAIN, _more_headers, "sent: headers"),
        (PLAIN, _asked_twice, "sent: number of requests"),
        (PLAIN, _asked_twice, "span: how many: 2"),
        (PLAIN, _asked_twice, "call: how many: 2"),
        (PLAIN, _changed_arguments, "caller: arguments kept"),
    ],
)
def test_an_instrumentation_that_shows_is_reported(rig: Rig, name: str, change: Any, report: str) -> None:
    """Whatever an instrumentation changes for the caller or in the request is told."""
    recorded = exchange(name)
    found = replay(
        recorded, rig, asynchronous=False, instrument=lambda client: _around(rig.instrument(client, recorded), change)
    )
    assert any(line.startswith(report) for line in found), found


def test_a_client_that_was_not_instrumented_is_reported(rig: Rig) -> None:
    """Nothing recorded is not right either."""
    found = replay(exchange(PLAIN), rig, asynchronous=True, instrument=lambda client: client)
    assert {"span: how many: 0, expected 1", "call: how many: 0, expected 1"} <= set(found)


def test_an_attribute_that_nobody_said_is_reported(rig: Rig) -> None:
    """A span with more on it than the request and the recording say is not right."""
    provider: Any = rig.tracer_provider

    class Inventive(TracerProvider):
        def get_tracer(self, *args: Any, **kwargs: Any) -> Any:
            tracer = provider.get_tracer(*args, **kwargs)
            bare = tracer.start_span

            def start_span(*args: Any, **kwargs: Any) -> Any:
                span = bare(*args, **kwargs)
                span.set_attribute("gen_ai.conversation.id", "made up")
                return span

            tracer.start_span = start_span
            return tracer

    rig.tracer_provider = Inventive(shutdown_on_exit=False)
    found = replay(exchange(PLAIN), rig, asynchronous=False)
    rig.tracer_provider.shutdown()
    rig.tracer_provider = provider
    assert found == ["span gen_ai.conversation.id: 'made up', which the recording does not say"]


def test_a_file_with_an_unknown_field_is_refused_by_place(tmp_path: Path) -> None:
    """The message names the file, the place and what is wrong there."""
    text = (FOLDER / f"{PLAIN}.yaml").read_text(encoding="utf-8")
    path = tmp_path / "broken.yaml"
    path.write_text(text.replace("  outcome: success", "  outcom: success"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"broken\.yaml: expected: .*outcom"):
        load(path)


def test_the_readme_explains_every_field() -> None:
    """Each field of the schema is in the README beside it."""
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")

    def fields_of(part: Any) -> Iterator[str]:
        for name, value in (
            part.items() if isinstance(part, dict) else enumerate(part if isinstance(part, list) else ())
        ):
            if name == "properties":
                yield from value
            yield from fields_of(value)

    schema = json.loads((FOLDER / "exchange.schema.json").read_text(encoding="utf-8"))
    assert [name for name in sorted(set(fields_of(schema))) if f"`{name}`" not in readme] == []
