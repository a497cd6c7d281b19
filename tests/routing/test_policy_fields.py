"""What a policy says about routing: models with clients, conditions, confidence, the default model, and what is wrong."""

from __future__ import annotations

import json

import jsonschema_rs
import pytest
from ruamel.yaml import YAML

from tierwise.config import check_text, json_schema
from tierwise.core.policy import Condition, Policy

WHOLE = """
models:
  llama: {upstream: groq, model: llama-4, params: {temperature: 0}}
  local: {base_url: "http://localhost:8000/v1", api_key_env: LOCAL_KEY}
tiers: {fast: [llama, local], deep: [big]}
defaults:
  model: llama
  raise_max_tokens: true
  conditions: [{when: {risk: high}, candidates: [deep]}]
  ladder: {escalate_on: [empty], low_confidence: {check_score: 0.8, mean_logprob: -1.5}}
tasks:
  a: {candidates: [fast], route: false, shadow: 10%}
  b:
    candidates: [fast]
    raise_max_tokens: false
    review: {model: big, draft: llama}
    ladder: {low_confidence: {field: meta.sure, min_confidence: 0.7}}
    conditions:
      - when: {input_tokens: [">= 1000", "<= 5000"], labels: {plan: paid}, tools: true, risk: [low, normal]}
        candidates: [deep, fast]
      - when: {labels: {public: "yes"}}
        review: true
"""


def policy(text: str) -> Policy:
    """A policy without errors and warnings."""
    found = check_text(text)
    assert (found.errors, found.warnings) == ((), ())
    assert found.policy is not None
    return found.policy


def test_a_policy_says_all_of_it() -> None:
    """Every field comes out where the router looks for it."""
    made = policy(WHOLE)
    assert (made.models["llama"].upstream, made.models["llama"].model) == ("groq", "llama-4")
    assert (made.models["local"].base_url, made.models["local"].api_key_env) == (
        "http://localhost:8000/v1",
        "LOCAL_KEY",
    )
    assert made.default_model == "llama"
    a, b = made.tasks["a"], made.tasks["b"]
    assert (a.route, a.shadow, a.raise_max_tokens, b.route, b.raise_max_tokens) == (False, 0.1, True, True, False)
    assert a.conditions == (Condition(candidates=("big",), risk=("high",)),)
    assert (a.ladder.min_check_score, a.ladder.min_mean_logprob) == (0.8, -1.5)
    assert (b.ladder.confidence_field, b.ladder.min_confidence) == ("meta.sure", 0.7)
    assert b.conditions == (
        Condition(
            candidates=("big", "llama", "local"),
            risk=("low", "normal"),
            min_input_tokens=1000,
            max_input_tokens=5000,
            labels={"plan": "paid"},
            tools=True,
        ),
        Condition(labels={"public": "yes"}, review=True),
    )
    assert made.first_candidates == ("llama", "local")


def test_the_schema_takes_what_the_loader_takes() -> None:
    """Editors agree with `validate`."""
    schema = json.loads(json.dumps(json_schema()))
    assert list(jsonschema_rs.validator_for(schema).iter_errors(YAML(typ="safe").load(WHOLE))) == []


@pytest.mark.parametrize(
    ("text", "where", "words"),
    [
        ("tiers: {x: [m]}\nmodels: {x: {}}\n", "models.x", "both a tier and a model"),
        ("models: {x: {base_url: 'http://h', upstream: u}}\n", "models.x.base_url", "keep one"),
        ("models: {x: {base_url: 'ftp://h'}}\n", "models.x.base_url", ""),
        ("models: {x: {api_key_env: K}}\n", "models.x.api_key_env", "belongs to a base_url"),
        ("models: {x: {params: {model: y}}}\n", "models.x.params.model", "take it out"),
        ("tiers: {fast: [m]}\ndefaults: {model: fast}\n", "defaults.model", "is a tier"),
        ("defaults: {conditions: [{when: {risk: high}}]}\n", "defaults.conditions.0", "changes nothing"),
        ("defaults: {conditions: [{when: {risk: huge}, candidates: [m]}]}\n", "risk", "not known"),
        (
            "defaults: {conditions: [{when: {input_tokens: '>= 5%'}, candidates: [m]}]}\n",
            "input_tokens",
            "whole number",
        ),
        (
            "defaults: {conditions: [{when: {input_tokens: ['>= 9', '<= 5']}, candidates: [m]}]}\n",
            "input_tokens",
            "at once",
        ),
        ("defaults: {conditions: [{when: {colour: red}, candidates: [m]}]}\n", "colour", "unknown key"),
    ],
)
def test_what_is_wrong_is_said_where_it_is(text: str, where: str, words: str) -> None:
    """One error, at its place."""
    (error,) = check_text(text + "tasks: {t: {candidates: [m]}}").errors
    assert where in error.message
    assert words in error.message


def test_a_task_is_checked_as_well() -> None:
    """Halves of a pair, and a review that is not there."""
    text = (
        "tasks: {t: {candidates: [m], ladder: {escalate_on: [empty], low_confidence: {field: f}}, "
        "conditions: [{when: {tools: true}, review: true}]}}"
    )
    messages = " ".join(error.message for error in check_text(text).errors)
    assert "needs min_confidence beside it" in messages
    assert "the task has no review" in messages
