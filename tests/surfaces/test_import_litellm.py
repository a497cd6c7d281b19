"""`tierwise import litellm`: a policy from a LiteLLM proxy's configuration, valid, and without a secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from inline_snapshot import snapshot

from support.commands import tierwise
from tierwise.config import check_text, load_policy
from tierwise.core.errors import ConfigError
from tierwise.core.policy import Policy
from tierwise.surfaces.export.formats import dumped
from tierwise.surfaces.export.from_litellm import policy_from_litellm

CONFIG = """
model_list:
  - model_name: gpt-5-mini
    litellm_params: {model: openai/gpt-5-mini, api_key: os.environ/OPENAI_API_KEY}
  - model_name: smart
    litellm_params:
      model: anthropic/claude-opus-4-5
      api_key: os.environ/ANTHROPIC_API_KEY
      temperature: 0
      input_cost_per_token: 0.000005
      output_cost_per_token: 0.000025
      rpm: 60
  - model_name: smart
    litellm_params: {model: gpt-5, api_key: sk-planted-secret-1, weight: 3}
  - model_name: cheap
    litellm_params: {model: openrouter/qwen/qwen-3, api_key: os.environ/ROUTER_KEY, order: 2}
  - model_name: cheap
    litellm_params: {model: openai/local, api_base: "http://10.0.0.5:8000/v1", order: 1, api_key: none}
  - model_name: europe
    litellm_params: {model: azure/gpt-5, api_base: "https://eu.example", api_key: os.environ/AZURE_KEY, api_version: v1}
  - model_name: vectors
    litellm_params: {model: text-embedding-3-small}
    model_info: {mode: embedding}
  - model_name: "openai/*"
    litellm_params: {model: "openai/*"}
  - {model_name: broken}
litellm_settings:
  drop_params: true
  fallbacks: [{cheap: [gpt-5-mini]}]
  default_fallbacks: [smart]
router_settings:
  routing_strategy: latency-based-routing
  model_group_alias: {fast: cheap, lost: nowhere, shown: {model: smart, hidden: true}}
  num_retries: 2
general_settings: {master_key: sk-planted-secret-2, database_url: "postgres://u:planted-secret-3@db/x"}
environment_variables: {OPENAI_API_KEY: planted-secret-4}
"""


def imported(folder: Path, text: str) -> tuple[Policy, str, tuple[str, ...]]:
    """The policy, its text and the notes that a configuration gives."""
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    made = policy_from_litellm(path)
    found = check_text(made.text)
    assert found.errors == ()
    assert found.policy is not None
    return found.policy, made.text, made.notes


def test_the_policy_to_the_letter(tmp_path: Path) -> None:
    """Deployments, groups, aliases, fallbacks, orders, weights, prices, parameters, and what could not be carried over."""
    _, text, _ = imported(tmp_path, CONFIG)
    assert text == snapshot("""\
# Started by `tierwise import litellm config.yaml`. Look it over: order is preference, best-liked first.
# vectors: of mode embedding, which is not routed: left out
# openai/*: a wildcard stands for models that are not named: left out; name those you use
# model_list entry 9 has no model_name or no litellm_params.model: left out
# smart: its weights became an order; shares of the traffic belong to routes, see `tierwise plan`
# smart: its key is written out in the file and was not copied: put it into a variable, set api_key_env
# smart: not carried over: rpm
# cheap: its key is written out in the file and was not copied: put it into a variable, set api_key_env
# europe: give its client as tierwise.instrument(client, upstreams={'azure': ...})
# europe: not carried over: api_version
# alias 'lost' leads to no model group: left out
# router_settings: not carried over: num_retries
# litellm_settings: not carried over: drop_params
# routing_strategy latency-based-routing: routes follow measured cost per success instead
# not carried over: environment_variables, general_settings

models:
  claude-opus-4-5:
    base_url: https://api.anthropic.com/v1/
    api_key_env: ANTHROPIC_API_KEY
    params:
      temperature: 0
  local:
    base_url: http://10.0.0.5:8000/v1
  qwen/qwen-3:
    base_url: https://openrouter.ai/api/v1
    api_key_env: ROUTER_KEY
  europe:
    model: gpt-5
    upstream: azure
prices:
  claude-opus-4-5:
    input: 5.0
    output: 25.0
tasks:
  gpt-5-mini:
    candidates:
    - gpt-5-mini
    - gpt-5
    - claude-opus-4-5
  smart:
    candidates:
    - gpt-5
    - claude-opus-4-5
  cheap:
    candidates:
    - local
    - qwen/qwen-3
    - gpt-5-mini
    - gpt-5
    - claude-opus-4-5
  europe:
    candidates:
    - europe
    - gpt-5
    - claude-opus-4-5
  fast:
    candidates:
    - local
    - qwen/qwen-3
    - gpt-5-mini
    - gpt-5
    - claude-opus-4-5
  shown:
    candidates:
    - gpt-5
    - claude-opus-4-5
  '*':
    candidates:
    - gpt-5-mini
    - gpt-5
    - claude-opus-4-5
    - local
    - qwen/qwen-3
    - europe
""")


def test_no_secret_is_copied(tmp_path: Path) -> None:
    """Keys written into the configuration, passwords in its addresses and variables stay there."""
    address = 'model_list: [{model_name: m, litellm_params: {model: openai/m, api_base: "https://u:planted-secret@h/v1?k=planted-secret"}}]'
    for config in (CONFIG, address):
        path = tmp_path / "config.yaml"
        path.write_text(config, encoding="utf-8")
        result = tierwise("import", "litellm", str(path))
        assert result.exit_code == 0
        assert "planted-secret" not in result.output
        assert "planted" not in result.output


def test_candidates_are_tried_in_order(tmp_path: Path) -> None:
    """Order before weight before the file's order; then the group's fallbacks, then the default ones; an alias is its group."""
    policy, _, notes = imported(tmp_path, CONFIG)
    assert policy.tasks["cheap"].candidates == ("local", "qwen/qwen-3", "gpt-5-mini", "gpt-5", "claude-opus-4-5")
    assert policy.tasks["smart"].candidates == ("gpt-5", "claude-opus-4-5")
    assert policy.tasks["fast"].candidates == policy.tasks["cheap"].candidates
    assert policy.tasks["shown"].candidates == policy.tasks["smart"].candidates
    assert any("lost" in note for note in notes)


def test_candidates_are_reached_where_they_were(tmp_path: Path) -> None:
    """Address, variable with the key, parameters and prices of a deployment are its candidate's."""
    policy, _, _ = imported(tmp_path, CONFIG)
    claude, local = policy.models["claude-opus-4-5"], policy.models["local"]
    assert (claude.base_url, claude.api_key_env) == ("https://api.anthropic.com/v1/", "ANTHROPIC_API_KEY")
    assert dict(claude.params) == {"temperature": 0}
    assert (local.base_url, local.api_key_env) == ("http://10.0.0.5:8000/v1", None)
    assert policy.models["qwen/qwen-3"].base_url == "https://openrouter.ai/api/v1"
    assert policy.models["europe"].upstream == "azure"
    assert policy.prices["claude-opus-4-5"] == {"input": 5.0, "output": 25.0}
    assert "gpt-5-mini" not in policy.models


def test_it_is_written_narrated_and_validates(tmp_path: Path) -> None:
    """The command writes the policy, says on stderr what it left out, and `tierwise validate` accepts it."""
    config, policy = tmp_path / "config.yaml", tmp_path / "tierwise.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    result = tierwise("import", "litellm", str(config), "-o", str(policy))
    assert (result.exit_code, result.stdout) == (0, "")
    assert "general_settings" in result.stderr
    assert tierwise("validate", str(policy)).exit_code == 0
    assert load_policy(policy).default is not None


def test_a_policy_that_is_there_stays(tmp_path: Path) -> None:
    """Without --force nothing is overwritten."""
    config, policy = tmp_path / "config.yaml", tmp_path / "tierwise.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    policy.write_text("mine", encoding="utf-8")
    assert tierwise("import", "litellm", str(config), "-o", str(policy)).exit_code == 2
    assert policy.read_text(encoding="utf-8") == "mine"
    assert tierwise("import", "litellm", str(config), "-o", str(policy), "--force").exit_code == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks: {}", "model_list"), ("model_list: 3", "model_list"), ("[]", "model_list"), ("a: [", "config.yaml:1"),
        ("model_list: []", "empty"), ("model_list: [{model_name: '*', litellm_params: {model: '*'}}]", "wildcard"),
        ("model_list: [{litellm_params: {model: m}}, 7, null]", "model_name"),
    ],
)  # fmt: skip
def test_what_is_no_configuration_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """Exit code 2 and where it is wrong."""
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    result = tierwise("import", "litellm", str(path))
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_the_same_model_in_two_places_is_two_candidates(tmp_path: Path) -> None:
    """Deployments of one model at different addresses are told apart by name; equal ones are one."""
    entries = [
        {"model_name": "pool", "litellm_params": {"model": "openai/m", "api_base": f"http://h{n}/v1"}}
        for n in (1, 2, 2)
    ]
    policy, _, _ = imported(tmp_path, dumped({"model_list": entries}))
    assert len(policy.tasks["pool"].candidates) == 2
    assert {policy.models[name].model for name in policy.tasks["pool"].candidates} == {"m"}
    assert {policy.models[name].base_url for name in policy.tasks["pool"].candidates} == {
        "http://h1/v1",
        "http://h2/v1",
    }


VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)
PARAMS = st.fixed_dictionaries(
    {"model": st.sampled_from(["gpt-5", "openai/a", "groq/b", "x/y", "azure/c", "", "a\x07b"]) | VALUES},
    optional=dict.fromkeys(("api_base", "api_key", "weight", "order", "temperature", "input_cost_per_token"), VALUES),
)
ENTRIES = st.fixed_dictionaries(
    {"model_name": st.sampled_from(["a", "gpt-5", "m", "auto"]) | VALUES, "litellm_params": PARAMS | VALUES},
    optional={"model_info": VALUES},
)
CONFIGS = st.fixed_dictionaries(
    {"model_list": st.lists(ENTRIES | VALUES, max_size=5)},
    optional={"router_settings": VALUES | st.fixed_dictionaries({"fallbacks": VALUES, "model_group_alias": VALUES})},
)


@settings(max_examples=150, deadline=None)
@given(CONFIGS)
@example({
    "model_list": [{"model_name": "a", "litellm_params": {"model": "gpt-5"}}],
    "router_settings": {"model_group_alias": {"b": [], "c": {"model": []}}},
})  # fmt: skip
def test_any_configuration_gives_a_valid_policy_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, config: Any
) -> None:
    """Whatever stands in the file: a policy that validates, or a `ConfigError`; never anything else."""
    path = tmp_path_factory.mktemp("any") / "config.yaml"
    path.write_text(dumped(config), encoding="utf-8", errors="replace")
    try:
        made = policy_from_litellm(path)
    except ConfigError:
        return
    assert check_text(made.text).errors == ()
