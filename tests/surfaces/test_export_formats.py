"""`tierwise export`: what each format says of one policy and route table, to the letter."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from inline_snapshot import snapshot
from ruamel.yaml import YAML

from support.commands import tierwise
from tierwise.core.route import Canary, Route, RouteTable
from tierwise.routing import write_table

POLICY = """
tiers:
  fast: [gemini-3.5-flash, claude-haiku-4-5]
  deep: [claude-opus-4-5]
models:
  llama: {upstream: groq, model: llama-4-70b, params: {temperature: 0, top_p: null}}
  local: {base_url: "http://127.0.0.1:8000/v1", model: qwen-3, api_key_env: LOCAL_KEY}
  guessed: {upstream: somewhere}
tasks:
  strict-json:
    candidates: [fast, llama]
    expects: json
    ladder: {escalate_on: [json_invalid]}
  legal-review:
    risk: high
    candidates: [deep]
  chat:
    candidates: [fast, local]
    conditions:
      - {when: {risk: high}, candidates: [deep]}
      - {when: {input_tokens: ">= 20000", labels: {plan: pro}, tools: true}, candidates: [local]}
  kept-out: {candidates: [guessed], route: false}
  "*": {candidates: [fast]}
"""
TABLE = RouteTable(
    updated_at=1_790_000_000,
    routes={
        "strict-json": Route(
            task="strict-json",
            primary="claude-haiku-4-5",
            fallbacks=("gemini-3.5-flash",),
            canary=Canary(candidate="llama", share=0.25),
        ),
        "chat": Route(
            task="chat", primary="gemini-3.5-flash",
            propensities={"gemini-3.5-flash": 0.8, "claude-haiku-4-5": 0.15, "local": 0.05},
        ),
        "added-by-hand": Route(task="added-by-hand", primary="local"),
    },
)  # fmt: skip


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a policy and a route file."""
    (tmp_path / "tierwise.yaml").write_text(POLICY, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    write_table(tmp_path / ".tierwise" / "routes.json", TABLE, expected_version=0)
    return tmp_path


def export(form: str, *options: str) -> str:
    """What the command prints."""
    result = tierwise("export", "--format", form, *options)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_json(project: Path) -> None:
    """Tasks with primary, shares, fallbacks, tier, ladder and conditions; models; tiers."""
    assert export("json") == snapshot("""\
{
  "format": "tierwise-export/1",
  "version": 1,
  "updated_at": 1790000000,
  "tasks": {
    "added-by-hand": {
      "primary": "local",
      "shares": {
        "local": 1.0
      },
      "fallbacks": [
        "gemini-3.5-flash",
        "claude-haiku-4-5"
      ]
    },
    "chat": {
      "primary": "gemini-3.5-flash",
      "shares": {
        "gemini-3.5-flash": 0.8,
        "claude-haiku-4-5": 0.15,
        "local": 0.05
      },
      "fallbacks": [
        "claude-haiku-4-5",
        "local"
      ],
      "tier": "fast",
      "conditions": [
        {
          "when": {
            "risk": [
              "high"
            ]
          },
          "candidate": "claude-opus-4-5"
        },
        {
          "when": {
            "min_input_tokens": 20000,
            "labels": {
              "plan": "pro"
            },
            "tools": true
          },
          "candidate": "local"
        }
      ]
    },
    "kept-out": {
      "primary": "guessed",
      "shares": {
        "guessed": 1.0
      },
      "fallbacks": []
    },
    "legal-review": {
      "primary": "claude-opus-4-5",
      "shares": {
        "claude-opus-4-5": 1.0
      },
      "fallbacks": [],
      "tier": "deep",
      "risk": "high"
    },
    "strict-json": {
      "primary": "claude-haiku-4-5",
      "shares": {
        "claude-haiku-4-5": 0.75,
        "llama": 0.25
      },
      "fallbacks": [
        "gemini-3.5-flash",
        "llama"
      ],
      "tier": "fast",
      "ladder": {
        "escalate_on": [
          "json_invalid"
        ],
        "rungs": [
          "gemini-3.5-flash",
          "llama"
        ]
      }
    },
    "*": {
      "primary": "gemini-3.5-flash",
      "shares": {
        "gemini-3.5-flash": 1.0
      },
      "fallbacks": [
        "claude-haiku-4-5"
      ],
      "tier": "fast"
    }
  },
  "models": {
    "claude-haiku-4-5": {
      "model": "claude-haiku-4-5"
    },
    "claude-opus-4-5": {
      "model": "claude-opus-4-5"
    },
    "gemini-3.5-flash": {
      "model": "gemini-3.5-flash"
    },
    "guessed": {
      "model": "guessed",
      "upstream": "somewhere"
    },
    "llama": {
      "model": "llama-4-70b",
      "upstream": "groq",
      "params": {
        "temperature": 0,
        "top_p": null
      }
    },
    "local": {
      "model": "qwen-3",
      "base_url": "http://127.0.0.1:8000/v1",
      "api_key_env": "LOCAL_KEY"
    }
  },
  "tiers": {
    "deep": [
      "claude-opus-4-5"
    ],
    "fast": [
      "gemini-3.5-flash",
      "claude-haiku-4-5"
    ]
  }
}
""")


def test_yaml_says_the_same(project: Path) -> None:
    """The YAML document is the JSON document."""
    assert YAML(typ="safe", pure=True).load(export("yaml")) == json.loads(export("json"))


def test_env(project: Path) -> None:
    """Variables that a shell reads."""
    assert export("env") == snapshot("""\
# Written by `tierwise export --format env`: routes version 1.
TIERWISE_TASK_ADDED_BY_HAND=local
TIERWISE_TASK_ADDED_BY_HAND_FALLBACKS=gemini-3.5-flash,claude-haiku-4-5
TIERWISE_TASK_CHAT=gemini-3.5-flash
TIERWISE_TASK_CHAT_FALLBACKS=claude-haiku-4-5,local
TIERWISE_TASK_CHAT_SHARES=gemini-3.5-flash=0.8,claude-haiku-4-5=0.15,local=0.05
TIERWISE_TASK_KEPT_OUT=guessed
TIERWISE_TASK_LEGAL_REVIEW=claude-opus-4-5
TIERWISE_TASK_STRICT_JSON=claude-haiku-4-5
TIERWISE_TASK_STRICT_JSON_FALLBACKS=gemini-3.5-flash,llama
TIERWISE_TASK_STRICT_JSON_SHARES=claude-haiku-4-5=0.75,llama=0.25
TIERWISE_TASK_DEFAULT=gemini-3.5-flash
TIERWISE_TASK_DEFAULT_FALLBACKS=claude-haiku-4-5
""")


def test_a_shell_reads_the_variables(project: Path) -> None:
    """`set -a; . file` gives the values, whatever characters they have."""
    (project / "routes.env").write_text(export("env"), encoding="utf-8")
    command = '. ./routes.env; echo "$TIERWISE_TASK_STRICT_JSON $TIERWISE_TASK_STRICT_JSON_SHARES"'
    done = subprocess.run(["sh", "-c", command], cwd=project, capture_output=True, text=True, check=True)
    assert done.stdout == "claude-haiku-4-5 claude-haiku-4-5=0.75,llama=0.25\n"


def test_flagd(project: Path) -> None:
    """One flag a task: variants, default, the split by fractions, conditions as rules."""
    assert export("flagd") == snapshot("""\
{
  "$schema": "https://flagd.dev/schema/v0/flags.json",
  "flags": {
    "added-by-hand": {
      "state": "ENABLED",
      "variants": {
        "local": "local"
      },
      "defaultVariant": "local",
      "metadata": {
        "fallbacks": "gemini-3.5-flash,claude-haiku-4-5"
      }
    },
    "chat": {
      "state": "ENABLED",
      "variants": {
        "gemini-3.5-flash": "gemini-3.5-flash",
        "claude-haiku-4-5": "claude-haiku-4-5",
        "local": "local",
        "claude-opus-4-5": "claude-opus-4-5"
      },
      "defaultVariant": "gemini-3.5-flash",
      "targeting": {
        "if": [
          {
            "and": [
              {
                "in": [
                  {
                    "var": "risk"
                  },
                  [
                    "high"
                  ]
                ]
              }
            ]
          },
          "claude-opus-4-5",
          {
            "if": [
              {
                "and": [
                  {
                    ">=": [
                      {
                        "var": "input_tokens"
                      },
                      20000
                    ]
                  },
                  {
                    "==": [
                      {
                        "var": "labels.plan"
                      },
                      "pro"
                    ]
                  },
                  {
                    "==": [
                      {
                        "var": "tools"
                      },
                      true
                    ]
                  }
                ]
              },
              "local",
              {
                "if": [
                  {
                    "==": [
                      {
                        "var": "risk"
                      },
                      "high"
                    ]
                  },
                  "gemini-3.5-flash",
                  {
                    "fractional": [
                      {
                        "cat": [
                          {
                            "var": "$flagd.flagKey"
                          },
                          {
                            "var": "targetingKey"
                          }
                        ]
                      },
                      [
                        "gemini-3.5-flash",
                        80000
                      ],
                      [
                        "claude-haiku-4-5",
                        15000
                      ],
                      [
                        "local",
                        5000
                      ]
                    ]
                  }
                ]
              }
            ]
          }
        ]
      },
      "metadata": {
        "tier": "fast",
        "fallbacks": "claude-haiku-4-5,local"
      }
    },
    "kept-out": {
      "state": "ENABLED",
      "variants": {
        "guessed": "guessed"
      },
      "defaultVariant": "guessed"
    },
    "legal-review": {
      "state": "ENABLED",
      "variants": {
        "claude-opus-4-5": "claude-opus-4-5"
      },
      "defaultVariant": "claude-opus-4-5",
      "metadata": {
        "tier": "deep"
      }
    },
    "strict-json": {
      "state": "ENABLED",
      "variants": {
        "claude-haiku-4-5": "claude-haiku-4-5",
        "llama": "llama"
      },
      "defaultVariant": "claude-haiku-4-5",
      "targeting": {
        "if": [
          {
            "==": [
              {
                "var": "risk"
              },
              "high"
            ]
          },
          "claude-haiku-4-5",
          {
            "fractional": [
              {
                "cat": [
                  {
                    "var": "$flagd.flagKey"
                  },
                  {
                    "var": "targetingKey"
                  }
                ]
              },
              [
                "claude-haiku-4-5",
                75000
              ],
              [
                "llama",
                25000
              ]
            ]
          }
        ]
      },
      "metadata": {
        "tier": "fast",
        "fallbacks": "gemini-3.5-flash,llama"
      }
    },
    "default": {
      "state": "ENABLED",
      "variants": {
        "gemini-3.5-flash": "gemini-3.5-flash"
      },
      "defaultVariant": "gemini-3.5-flash",
      "metadata": {
        "tier": "fast",
        "fallbacks": "claude-haiku-4-5"
      }
    }
  },
  "metadata": {
    "flagSetId": "tierwise-routes",
    "version": "1"
  }
}
""")


def test_litellm(project: Path) -> None:
    """A group for each candidate, tier and task; weights, fallbacks, notes on what cannot be said."""
    assert export("litellm") == snapshot("""\
# Written by `tierwise export --format litellm`: routes version 1.
# Ask for a task by its name in the place of a model's (auto: tasks nobody named).
# guessed: where its upstream 'somewhere' is, only the application knows; set api_base
# llama: LiteLLM cannot take away what the caller sends (top_p)
# chat: its conditions are left out; ask for claude-opus-4-5, local by name
# strict-json: LiteLLM does not judge answers, so a run does not escalate to gemini-3.5-flash, llama
model_list:
- model_name: claude-haiku-4-5
  litellm_params:
    model: anthropic/claude-haiku-4-5
- model_name: claude-opus-4-5
  litellm_params:
    model: anthropic/claude-opus-4-5
- model_name: gemini-3.5-flash
  litellm_params:
    model: gemini/gemini-3.5-flash
- model_name: guessed
  litellm_params:
    model: openai/guessed
- model_name: llama
  litellm_params:
    model: groq/llama-4-70b
    temperature: 0
- model_name: local
  litellm_params:
    model: openai/qwen-3
    api_base: http://127.0.0.1:8000/v1
    api_key: os.environ/LOCAL_KEY
- model_name: deep
  litellm_params:
    model: anthropic/claude-opus-4-5
- model_name: fast
  litellm_params:
    model: gemini/gemini-3.5-flash
- model_name: added-by-hand
  litellm_params:
    model: openai/qwen-3
    api_base: http://127.0.0.1:8000/v1
    api_key: os.environ/LOCAL_KEY
- model_name: chat
  litellm_params:
    model: gemini/gemini-3.5-flash
    weight: 0.8
- model_name: chat
  litellm_params:
    model: anthropic/claude-haiku-4-5
    weight: 0.15
- model_name: chat
  litellm_params:
    model: openai/qwen-3
    api_base: http://127.0.0.1:8000/v1
    api_key: os.environ/LOCAL_KEY
    weight: 0.05
- model_name: kept-out
  litellm_params:
    model: openai/guessed
- model_name: legal-review
  litellm_params:
    model: anthropic/claude-opus-4-5
- model_name: strict-json
  litellm_params:
    model: anthropic/claude-haiku-4-5
    weight: 0.75
- model_name: strict-json
  litellm_params:
    model: groq/llama-4-70b
    temperature: 0
    weight: 0.25
- model_name: auto
  litellm_params:
    model: gemini/gemini-3.5-flash
router_settings:
  routing_strategy: simple-shuffle
  fallbacks:
  - fast:
    - claude-haiku-4-5
  - added-by-hand:
    - gemini-3.5-flash
    - claude-haiku-4-5
  - chat:
    - claude-haiku-4-5
    - local
  - strict-json:
    - gemini-3.5-flash
    - llama
  - auto:
    - claude-haiku-4-5
""")


def test_litellm_through_one_gateway(project: Path) -> None:
    """With --api-base every candidate without its own address is asked there, its key named by its variable."""
    text = export("litellm", "--api-base", "https://gateway.example/v1", "--api-key-env", "GATEWAY_KEY")
    found: Any = YAML(typ="safe", pure=True).load(text)
    params = {one["model_name"]: one["litellm_params"] for one in found["model_list"]}
    assert params["gemini-3.5-flash"] == {
        "model": "openai/gemini-3.5-flash", "api_base": "https://gateway.example/v1",
        "api_key": "os.environ/GATEWAY_KEY",
    }  # fmt: skip
    assert params["local"]["api_base"] == "http://127.0.0.1:8000/v1"


def test_it_is_written_in_one_step_for_its_owner(project: Path) -> None:
    """-o replaces a file, readable by its owner alone."""
    path = project / "flags.json"
    path.write_text("old", encoding="utf-8")
    result = tierwise("export", "--format", "flagd", "-o", str(path))
    assert (result.exit_code, result.stdout) == (0, "")
    assert json.loads(path.read_text(encoding="utf-8"))["metadata"]["version"] == "1"
    assert path.stat().st_mode & 0o777 == 0o600


def test_without_routes_the_policys_order_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything was applied each task has its first candidate, the others as fallbacks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tierwise.yaml").write_text(
        'tasks: {a: {candidates: [x, y]}, "*": {candidates: [z]}}', encoding="utf-8"
    )
    tasks = json.loads(export("json"))["tasks"]
    assert tasks["a"] == {"primary": "x", "shares": {"x": 1.0}, "fallbacks": ["y"]}
    assert tasks["*"]["primary"] == "z"


def test_nothing_to_export_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither policy nor route: exit code 2 and what to do."""
    monkeypatch.chdir(tmp_path)
    result = tierwise("export", "--format", "json")
    assert (result.exit_code, "nothing to export" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("policy", "form", "message"),
    [
        ("tasks: {m: {candidates: [n, m]}}", "litellm", "'m'"),
        ("tasks: {auto: {candidates: [m]}, '*': {candidates: [n]}}", "litellm", "'auto'"),
        ("tasks: {a-b: {candidates: [m]}, a_b: {candidates: [n]}}", "env", "TIERWISE_TASK_A_B"),
        ("tasks: {default: {candidates: [m]}, '*': {candidates: [n]}}", "flagd", "default"),
    ],
)
def test_names_that_would_collide_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str, form: str, message: str
) -> None:
    """Where the other program would take two things for one, nothing is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tierwise.yaml").write_text(policy, encoding="utf-8")
    result = tierwise("export", "--format", form)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


def test_a_task_named_like_its_only_candidate_is_one_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in configurations of LiteLLM itself, where a model's name stands for it and its fallbacks."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tierwise.yaml").write_text("tasks: {m: {candidates: [m, n]}}", encoding="utf-8")
    found: Any = YAML(typ="safe", pure=True).load(export("litellm", "--api-base", "http://h/v1"))
    assert [one["model_name"] for one in found["model_list"]] == ["m", "n"]
    assert found["router_settings"]["fallbacks"] == [{"m": ["n"]}]


def test_options_that_do_not_fit_are_refused(project: Path) -> None:
    """--api-base is for LiteLLM, --api-key-env needs it, --format is needed."""
    assert tierwise("export").exit_code == 2
    assert tierwise("export", "--format", "json", "--api-base", "https://x").exit_code == 2
    assert tierwise("export", "--format", "litellm", "--api-key-env", "X").exit_code == 2
