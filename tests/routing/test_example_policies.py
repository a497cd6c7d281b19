"""The two policies that are shipped as examples: valid, and routed as they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tierwise
from support.canned import chat
from support.routing import AUTO, Routed, routed
from tierwise.config import check_policy
from tierwise.core.policy import Policy

FOLDER = Path(__file__).parent.parent.parent / "docs" / "examples" / "policies"
FLASH, HAIKU, SONNET, OPUS = "gemini-3.5-flash", "claude-haiku-4-5", "claude-sonnet-4-5", "claude-opus-4-5"


def load(name: str) -> Policy:
    """An example, which must be without errors and warnings."""
    found = check_policy(FOLDER / name)
    assert (found.errors, found.warnings) == ((), ())
    assert found.policy is not None
    return found.policy


def ask(made: Routed, task: str, **changes: Any) -> list[str]:
    """The models that one call of a task asks."""
    made.canned.bodies.clear()
    with tierwise.task(task, **changes):
        made.client.chat.completions.create(**AUTO)
    return made.asked


@pytest.mark.parametrize(
    ("task", "first"),
    [
        ("summary", FLASH), ("classification", FLASH), ("chat", FLASH), ("coding", SONNET), ("long-writing", SONNET),
        ("agent-step", SONNET), ("something-else", FLASH),
    ],
)  # fmt: skip
def test_the_published_rule(task: str, first: str) -> None:
    """Simple work to the fast model, demanding work to the balanced one, the rest to the fast one; high risk to the deep."""
    made = routed(chat("Hi."), policy=load("published-rule.yaml"), task=None)
    assert ask(made, task) == [first]
    assert ask(made, task, risk="high") == [OPUS]


@pytest.mark.parametrize(
    ("task", "bad", "asked"),
    [
        ("fast-summary", chat(""), [FLASH, HAIKU]),
        ("strict-json", chat("no JSON"), [FLASH, SONNET]),
        ("strict-json", chat('```json\n{"a": 1}\n```'), [FLASH]),
        ("simple-coding", chat("x", finish_reason="length"), [HAIKU, SONNET]),
        ("medium-reasoning", chat('{"confidence": 0.2}'), [SONNET, OPUS]),
        ("long-form-writing", chat("x", finish_reason="length"), [SONNET, OPUS]),
        ("highest-risk-reasoning", chat("Draft."), [SONNET, OPUS]),
    ],
)
def test_the_route_map(task: str, bad: object, asked: list[str]) -> None:
    """Six rows: where a run starts, and where it goes on to when its signal fails."""
    made = routed(bad, chat('{"confidence": 1}'), policy=load("route-map.yaml"), task=None)  # type: ignore[arg-type]
    assert ask(made, task) == asked


def test_long_input_goes_to_the_deep_tier_at_once() -> None:
    """The condition of the fifth row."""
    made = routed(chat("Hi."), policy=load("route-map.yaml"), task="long-form-writing")
    made.client.chat.completions.create(model="auto", messages=[{"role": "user", "content": "x" * 250_000}])
    assert made.asked == [OPUS]


def test_every_example_is_looked_at() -> None:
    """No policy lies there untested."""
    assert sorted(path.name for path in FOLDER.iterdir()) == ["published-rule.yaml", "route-map.yaml"]
