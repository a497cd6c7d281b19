"""Reading tierwise.yaml: the documented example, defaults, units, and every error at its place."""

# ruff: noqa: E501 - the expected messages stand as they are printed
from __future__ import annotations

import json
from pathlib import Path

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inline_snapshot import snapshot
from ruamel.yaml import YAML

from tierwise.config import check_policy, check_text, json_schema, load_policy
from tierwise.config.units import duration_s, limit, share
from tierwise.core.errors import ConfigError
from tierwise.core.policy import GuardrailMetric, Policy, TaskPolicy

EXAMPLE = """\
# yaml-language-server: $schema=tierwise.schema.json
tiers:
  fast: [gemini-3.5-flash, claude-haiku-4-5]
  balanced: [claude-sonnet-4-5]
  deep: [claude-opus-4-5]
models: {}                               # names with upstream and parameters, where a bare model name is not enough
prices: {}                               # overrides, USD per million tokens
defaults:
  objective: cost_per_success            # or latency_p50 | latency_p95 | success_rate | loss {value_of_success: 0.02}
  confidence: 0.95                       # 0.99 for automatic changes
  min_improvement: 5%
  margin: 5%                             # success may be at most this much worse
  min_runs: 30
  min_buckets: 10
  cooldown: 12h
  apply: recommend                       # or auto
  explore: 0%                            # or 1-100 %, or adaptive; plan prints what exploring would cost and save
tasks:
  strict-json:
    candidates: [fast, balanced]
    expects: json
    guardrails: {success_rate: ">= 0.95", json_valid_rate: ">= 0.99", latency_p95: "<= 10s", truncation_rate: "<= 1%",
                 retry_rate: "<= 5%", acceptance_rate: ">= 0.8"}
    ladder: {escalate_on: [json_fenced, json_invalid, truncated, empty], cleanup: [json_fenced], max_rungs: 3}
  legal-review:
    risk: high                           # starts at the deep tier, is never explored, demands proven guardrails
    candidates: [deep, balanced]
    review: {model: claude-opus-4-5, draft: gemini-3.5-flash}
  "*": {candidates: [fast]}              # tasks nobody named
"""


def policy_of(text: str) -> Policy:
    """The policy of a text that has no errors."""
    findings = check_text(text)
    assert findings.errors == ()
    assert findings.policy is not None
    return findings.policy


def task_of(body: str, *, head: str = "") -> TaskPolicy:
    """The policy of a task `t` written in flow style."""
    return policy_of(f"{head}\ntasks: {{t: {{candidates: [a, b], {body}}}}}").tasks["t"]


def lines(text: str) -> list[str]:
    """Errors then warnings of a text, as printed, without the file's name."""
    findings = check_text(text, name="f")
    return [str(item).removeprefix("f:") for item in (*findings.errors, *findings.warnings)]


def test_documented_example_loads_without_a_finding(tmp_path: Path) -> None:
    """The example of the documentation becomes the policy it describes."""
    path = tmp_path / "tierwise.yaml"
    path.write_text(EXAMPLE)
    findings = check_policy(path)
    assert findings.errors == findings.warnings == ()
    policy = load_policy(path)
    strict = policy.tasks["strict-json"]
    assert strict.candidates == ("gemini-3.5-flash", "claude-haiku-4-5", "claude-sonnet-4-5")
    assert strict.tiers == ("fast", "fast", "balanced")
    assert GuardrailMetric(metric="latency_p95", op="<=", limit=10.0) in strict.guardrails
    assert GuardrailMetric(metric="truncation_rate", op="<=", limit=0.01) in strict.guardrails
    assert (strict.cooldown_s, strict.margin, strict.expects) == (43200.0, 0.05, "json")
    assert strict.ladder.cleanup == ("json_fenced",)
    legal = policy.tasks["legal-review"]
    assert legal.needs_proof
    assert legal.review is not None
    assert legal.review.draft == "gemini-3.5-flash"
    assert policy.default is not None
    assert policy.for_task("anything") is policy.default
    assert policy.path == str(path)


def test_documented_example_holds_the_printed_schema() -> None:
    """Editors that use the JSON Schema accept the documented example."""
    value = YAML(typ="safe").load(EXAMPLE)
    validator = jsonschema_rs.validator_for(json.loads(json.dumps(json_schema())))
    assert [error.message for error in validator.iter_errors(value)] == []


@pytest.mark.parametrize(
    "text",
    [
        "tiers: {fast: a}",
        "defaults: {explore: 200%}",
        "defaults: {objective: cheapest}",
        "tasks: {t: {candidates: [a], guardrails: {success: '>= 1'}}}",
        "tasks: {t: {candidates: [a], guardrails: {success_rate: 'about 1'}}}",
        "tasks: {t: {candidates: [a], ladder: {escalate_on: [success]}}}",
        "prices: {m: {input: -1}}",
        "tasks: {t: {colour: red}}",
    ],
)
def test_schema_and_loader_reject_the_same_shapes(text: str) -> None:
    """What an editor marks red, `validate` calls an error, and the other way round."""
    value = YAML(typ="safe").load(text)
    assert not jsonschema_rs.is_valid(json_schema(), value)
    assert check_text(text).errors


def test_every_error_is_reported_at_once_with_its_place() -> None:
    """Wrong types, unknown keys and contradictions of one file come together, in order, each at its line and column."""
    text = """\
tiers:
  fast: [a, 3]
  deep: [fast, q, q]
modles: {}
models:
  fast: {}
defaults: {confidence: 2, cooldown: soon}
tasks:
  t:
    candidates: [fast]
    guardrials: {}
    guardrails: {sucess_rate: ">= 0.9", success_rate: [">= 0.9", "<= 0.5"], latency_p95: "<= 10%"}
    ladder: {escalate_on: [truncted]}
    review: {model: zzz}
prices: {m: {input: -1}, z: {input: 0, output: 0}}
"""
    assert [str(error) for error in check_text(text, name="f").errors] == snapshot(
        [
            "f:2:13: tiers.fast.1: needs text; put it in quotes",
            "f:3:10: tiers.deep.0: 'fast' is a tier; a tier lists models, write its models out",
            "f:3:19: tiers.deep.2: 'q' is in this tier twice; keep one",
            "f:4:1: modles: unknown key; did you mean 'models'?",
            "f:6:3: models.fast: 'fast' is both a tier and a model; rename one",
            "f:7:24: defaults.confidence: must be below 1, not 2",
            "f:7:37: defaults.cooldown: 'soon' is not a duration; write 12h, 30m, 45s or 500ms",
            "f:11:5: tasks.t.guardrials: unknown key; did you mean 'guardrails'?",
            "f:12:18: tasks.t.guardrails.sucess_rate: unknown metric 'sucess_rate'; did you mean 'success_rate'?",
            "f:12:55: tasks.t.guardrails.success_rate: cannot be at least 0.9 and at most 0.5 at once; drop one",
            "f:12:90: tasks.t.guardrails.latency_p95: latency_p95 is not measured in that unit; write a limit like 10s or 500ms",
            "f:13:28: tasks.t.ladder.escalate_on.0: outcome: unknown 'truncted'; did you mean 'truncated'?",
            "f:14:13: tasks.t.review: 'draft' is missing; add it",
            "f:15:21: prices.m.input: must be at least 0, not -1",
            "f:15:29: prices.z: every price is 0, which makes all costs and savings 0; give what a million tokens cost you to serve",
        ]
    )


def test_warnings_are_apart_from_errors() -> None:
    """A doubtful policy is valid: the policy is there and the doubts are listed with their places."""
    text = """\
tiers: {balanced: [m]}
tasks:
  t:
    candidates: [balnced, m]
    guardrails: {latency_p95: "<= 11s", json_valid_rate: ">= 99%", error_rate: ">= 1%", ttft_p50: "<= 10ms"}
    apply: auto
    confidence: 0.9
    ladder: {escalate_on: [refused]}
  h: {candidates: [m], risk: high, explore: 10%}
"""
    findings = check_text(text, name="f")
    assert findings.policy is not None
    assert [str(warning) for warning in findings.warnings] == snapshot(
        [
            "f:4:18: tasks.t.candidates.0: no tier or model entry is called 'balnced', so it is taken as a model name; did you mean 'balanced'?",
            "f:5:31: tasks.t.guardrails.latency_p95: 11 s is not an edge of the latency histogram; tested at the next lower edge 10 s",
            "f:5:41: tasks.t.guardrails.json_valid_rate: json_valid_rate counts only calls whose request asks for JSON; add expects: json if all should be",
            "f:5:80: tasks.t.guardrails.error_rate: lower error_rate is better, so this limit stops good candidates; did you mean '<='?",
            "f:5:99: tasks.t.guardrails.ttft_p50: 0.01 s is below the smallest edge of the latency histogram (0.05 s)",
            "f:7:17: tasks.t.confidence: apply: auto at confidence 0.9; 0.99 is advised where nobody looks first",
            "f:8:28: tasks.t.ladder.escalate_on.0: 'refused' sends what one model declined for safety to another; be sure you want that",
            "f:9:45: tasks.h.explore: a task of high risk is never explored; this is ignored",
        ]
    )
    assert findings.policy.tasks["h"].explore == 0.0


def test_load_policy_raises_all_lines(tmp_path: Path) -> None:
    """`load_policy` fails with one line for each error."""
    path = tmp_path / "tierwise.yaml"
    path.write_text("tiers: 3\ntasks: 4\n")
    with pytest.raises(ConfigError) as caught:
        load_policy(path)
    assert str(caught.value).splitlines() == [
        f"{path}:1:8: tiers: needs a mapping, key: value",
        f"{path}:2:8: tasks: needs a mapping, key: value",
    ]


def test_list_items_after_a_wrong_one_keep_their_place() -> None:
    """An item taken out as wrong does not move the place of an error behind it."""
    assert lines("tiers: {fast: [3, a, b, a]}\ntasks: {t: {candidates: [fast]}}") == [
        "1:16: tiers.fast.0: needs text; put it in quotes",
        "1:25: tiers.fast.3: 'a' is in this tier twice; keep one",
    ]


def test_defaults_reach_every_task_and_a_task_wins() -> None:
    """A task takes what `defaults` says, guardrails by metric, unless it says otherwise itself."""
    policy = policy_of(
        "defaults: {margin: 2%, min_runs: 50, guardrails: {success_rate: '>= 0.9', latency_p95: '<= 5s'}}\n"
        "tasks: {a: {candidates: [m], min_runs: 10, guardrails: {success_rate: '>= 0.5'}}, b: {candidates: [m]}}"
    )
    a, b = policy.tasks["a"], policy.tasks["b"]
    assert (a.margin, a.min_runs, b.margin, b.min_runs) == (0.02, 10, 0.02, 50)
    assert {guardrail.metric: guardrail.limit for guardrail in a.guardrails} == {
        "success_rate": 0.5,
        "latency_p95": 5.0,
    }
    assert {guardrail.metric: guardrail.limit for guardrail in b.guardrails} == {
        "success_rate": 0.9,
        "latency_p95": 5.0,
    }


def test_objective_loss_takes_the_value_of_a_success() -> None:
    """`{loss: {value_of_success: 0.02}}` and the bare names are the two forms of an objective."""
    assert task_of("objective: {loss: {value_of_success: 0.02}}").objective.value_of_success_usd == 0.02
    assert task_of("objective: latency_p95").objective.kind == "latency_p95"
    assert task_of("objective: loss").objective.value_of_success_usd is None


def test_automatic_changes_are_more_careful_by_default() -> None:
    """`apply: auto` without a confidence means 0.99."""
    assert task_of("apply: auto").confidence == 0.99
    assert task_of("apply: recommend").confidence == 0.95


def test_candidates_default_to_those_of_the_wildcard() -> None:
    """A task without candidates takes those of "*"; without either it is an error."""
    policy = policy_of('tiers: {fast: [m, n]}\ntasks: {t: , "*": {candidates: [fast]}}')
    assert policy.tasks["t"].candidates == ("m", "n")
    assert "no candidates" in lines("tasks: {t: {risk: low}}")[0]


def test_schema_can_be_inline_or_a_file_beside_the_policy(tmp_path: Path) -> None:
    """A task's schema implies `expects: json`; a broken schema or file is an error at its place."""
    (tmp_path / "s.json").write_text('{"type": "object"}')
    path = tmp_path / "tierwise.yaml"
    path.write_text("tasks: {t: {candidates: [a], schema: s.json}, u: {candidates: [a], schema: {type: array}}}")
    policy = load_policy(path)
    assert policy.tasks["t"].schema == {"type": "object"}
    assert policy.tasks["u"].expects == "json"
    path.write_text("tasks: {t: {candidates: [a], schema: no.json}, u: {candidates: [a], schema: {type: arry}}}")
    errors = [error.message for error in check_policy(path).errors]
    assert "no.json: cannot be read" in errors[0]
    assert "tasks.u.schema: not a valid JSON Schema" in errors[1]


def test_schema_never_downloads() -> None:
    """A reference to another document is refused, not followed."""
    (error,) = check_text("tasks: {t: {candidates: [a], schema: {$ref: 'http://127.0.0.1:9/x.json'}}}").errors
    assert "not a valid JSON Schema" in error.message


def test_named_models_carry_upstream_and_parameters() -> None:
    """A named model keeps its upstream, model and parameters; its model defaults to its name."""
    policy = policy_of(
        "models: {llama: {upstream: groq, model: llama-x, params: {temperature: 0}}, plain: {}}\n"
        "prices: {llama: {input: 0.5, output: 1}}\ntasks: {t: {candidates: [llama, plain]}}"
    )
    assert (policy.models["llama"].upstream, policy.models["llama"].model) == ("groq", "llama-x")
    assert policy.models["llama"].params == {"temperature": 0}
    assert policy.models["plain"].model == "plain"
    assert policy.prices == {"llama": {"input": 0.5, "output": 1.0}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (">= 0.95", (">=", 0.95)),
        ("<=1%", ("<=", 0.01)),
        ("<= 500ms", ("<=", 0.5)),
        ("≤ 2 min", ("<=", 120.0)),
        ("<= $0.02", ("<=", 0.02)),
        ("<= 1e-3 USD", ("<=", 0.001)),
    ],
)
def test_limits_are_read_in_their_units(text: str, expected: tuple[str, float]) -> None:
    """A limit's operator, number and unit are read as people write them."""
    bound = limit(text)
    assert (bound.op, bound.value) == (expected[0], pytest.approx(expected[1]))


@pytest.mark.parametrize("text", ["0.95", "> 1", "== 1", ">= ", ">= nan", ">= 1 2", "<= $5%", 3, None, ">= -1", True])
def test_wrong_limits_say_how_to_write_one(text: object) -> None:
    """A limit that cannot be read is a ValueError that shows the form."""
    with pytest.raises(ValueError, match=r">="):
        limit(text)


@given(st.floats(min_value=0, max_value=100, allow_nan=False))
def test_shares_read_alike_as_percent_and_number(percent: float) -> None:
    """`p%` and p/100 are the same share."""
    text = f"{percent:f}"
    assert share(f"{text}%") == pytest.approx(share(float(text) / 100))


@given(st.one_of(st.text(max_size=20), st.floats(), st.integers(), st.none(), st.booleans()))
def test_units_accept_or_raise_value_error(value: object) -> None:
    """Whatever stands there, the readers give a number in range or a ValueError."""
    for read in (share, duration_s):
        try:
            result = read(value)
        except ValueError:
            continue
        assert 0 <= result < float("inf")


YAML_BITS = st.sampled_from(
    ["tiers:", "tasks:", "defaults:", "models:", "prices:", "fast:", " ", "\n", "  ", "- ", "[", "]", "{", "}", ",", ": ",
     "a", "*", "&x ", "*x", "'", '"', "!!python/object:os.system ", "<<: ", "1", "-1", ".nan", "null", "#", "|", "%", "\t",
     "candidates:", "guardrails:", "success_rate", ">= 0.9", "schema:", "\x00", "é", "? ", "--- ", "..."]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(YAML_BITS, max_size=30).map("".join))
def test_no_text_escapes_as_an_exception(text: str) -> None:
    """Any text gives findings or a policy, never an exception; every finding has a place inside the file."""
    findings = check_text(text)
    assert (findings.policy is None) == bool(findings.errors)
    for finding in (*findings.errors, *findings.warnings):
        assert 1 <= finding.line <= text.count("\n") + 2
        assert finding.column >= 1


def test_an_anchor_given_twice_is_no_warning() -> None:
    """YAML lets an anchor be given again; the last one counts and nothing is printed."""
    assert check_text("tiers: {fast: [&x m], deep: [&x n]}\ntasks: {t: {candidates: [*x]}}\n").policy is not None
