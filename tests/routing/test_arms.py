"""Which arm a run takes: pure, sticky, in the shares of the route; conditions, and what a run may go on to."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierwise.core.policy import Condition, Review, TaskPolicy
from tierwise.core.route import Canary, Draw, Route
from tierwise.routing import choose
from tierwise.routing.arms import arms_of, challenger_of, position, shares_of
from tierwise.routing.conditions import PART_TOKENS, Facts, estimated_input_tokens, first_match, matches, offers_tools

NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
SHARES = st.floats(min_value=0, max_value=1)
ROUTES = st.builds(
    Route,
    task=st.just("t"),
    primary=NAMES,
    fallbacks=st.lists(NAMES, unique=True, max_size=3).map(tuple),
    ladder=st.lists(NAMES, unique=True, max_size=4).map(tuple),
    canary=st.none() | st.builds(Canary, candidate=NAMES, share=SHARES),
    propensities=st.dictionaries(NAMES, SHARES, max_size=5),
)
POLICIES = st.none() | st.builds(
    TaskPolicy, task=st.just("t"), candidates=st.lists(NAMES, unique=True, max_size=4).map(tuple)
)
NOTHING = Facts(labels={})


def policy(*candidates: str, **changes: object) -> TaskPolicy:
    """A policy of task `t`."""
    return TaskPolicy(task="t", candidates=candidates, **changes)  # type: ignore[arg-type]


def drawn(route: Route | None, given: TaskPolicy | None = None, runs: int = 4000, version: int = 1) -> Counter[str]:
    """How often each candidate was drawn."""
    arms = arms_of("t", route, given, version=version)
    assert arms is not None
    return Counter(arms.draw(f"run-{number}", NOTHING).candidate for number in range(runs))


@given(ROUTES, POLICIES, st.text(max_size=30), st.integers(0, 1 << 39))
def test_a_draw_is_the_same_for_the_same_run(
    route: Route, given_policy: TaskPolicy | None, run_id: str, version: int
) -> None:
    """Whatever route and policy say: one candidate, always the same, with the share it has; what follows is another."""
    first = choose("t", route, given_policy, run_id=run_id, version=version)
    assert first is not None
    assert first == choose("t", route, given_policy, run_id=run_id, version=version)
    shares = shares_of(route)
    assert sum(shares.values()) == pytest.approx(1)
    assert all(share >= 0 for share in shares.values())
    assert first.propensity == shares[first.candidate]
    assert first.candidate not in (*first.fallbacks, *first.rungs)
    assert len(set(first.rungs)) == len(first.rungs)
    assert first.arm in ("primary", "canary", "explore")


def test_shares_are_kept_to() -> None:
    """4,000 runs: each candidate within four standard errors of its share."""
    route = Route(task="t", primary="a", propensities={"a": 0.7, "b": 0.2, "c": 0.1})
    found = drawn(route)
    for name, share in route.propensities.items():
        assert abs(found[name] / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5


def test_a_new_table_draws_anew() -> None:
    """Who ran on an arm under one version is as likely as anybody on any arm under the next."""
    route = Route(task="t", primary="a", propensities={"a": 0.5, "b": 0.5})
    one, two = (arms_of("t", route, None, version=version) for version in (1, 2))
    assert one is not None
    assert two is not None
    same = sum(one.draw(str(n), NOTHING).candidate == two.draw(str(n), NOTHING).candidate for n in range(4000))
    assert abs(same / 4000 - 0.5) < 0.04


@given(st.text(), st.integers(0, 100), st.text())
def test_positions_lie_in_the_unit_interval(run_id: str, version: int, task: str) -> None:
    """Any text may be a run id, lone surrogates as well."""
    assert 0 <= position(run_id, version, task) < 1


def test_a_canary_without_a_share_in_the_split_gets_its_own() -> None:
    """A table made by hand may name a canary and no shares."""
    route = Route(task="t", primary="a", canary=Canary(candidate="b", share=0.25))
    assert shares_of(route) == {"a": 0.75, "b": 0.25}
    split = Route(task="t", primary="a", canary=Canary(candidate="b", share=0.5), propensities={"a": 0.8, "c": 0.2})
    assert shares_of(split) == pytest.approx({"a": 0.4, "c": 0.1, "b": 0.5})


def test_shares_that_do_not_add_up_are_made_to() -> None:
    """Too little goes to the primary, too much is scaled down."""
    assert shares_of(Route(task="t", primary="a", propensities={"b": 0.25})) == {"a": 0.75, "b": 0.25}
    both = Route(task="t", primary="a", propensities={"a": 1.0, "b": 1.0})
    assert shares_of(both) == pytest.approx({"a": 0.5, "b": 0.5}) or shares_of(both) == {"b": 1.0}
    over = shares_of(Route(task="t", primary="a", propensities={"a": 0.5, "b": 1.0, "c": 0.5}))
    assert over == pytest.approx({"a": 0.25, "b": 0.5, "c": 0.25})


def test_without_a_route_the_policy_says_who() -> None:
    """First candidate, then the others; without candidates the default model; else nothing."""
    found = choose("t", None, policy("a", "b", "c"), run_id="r", version=0)
    assert found is not None
    assert (found.candidate, found.arm, found.propensity) == ("a", "primary", 1.0)
    assert (found.fallbacks, found.rungs) == (("b", "c"), ("b", "c"))
    plain = choose("t", None, None, run_id="r", version=0, default_model="m")
    assert plain is not None
    assert plain.candidate == "m"
    assert choose("t", None, None, run_id="r", version=0) is None


@pytest.mark.parametrize(
    ("ladder", "candidate", "rungs"),
    [
        (("a", "b", "c"), "a", ("b", "c")),
        (("a", "b", "c"), "b", ("c",)),
        (("a", "b"), "d", ("a", "b")),
        ((), "a", ("b",)),
    ],
)
def test_rungs_begin_behind_the_candidate(ladder: tuple[str, ...], candidate: str, rungs: tuple[str, ...]) -> None:
    """Who stands on the ladder goes up from there, who does not goes on to all of it."""
    route = Route(task="t", primary="a", ladder=ladder, propensities={candidate: 1.0})
    found = choose("t", route, policy("a", "b"), run_id="r", version=0)
    assert found is not None
    assert (found.candidate, found.rungs) == (candidate, rungs)


def test_high_risk_takes_the_primary() -> None:
    """A call of high risk is not drawn; a task of high risk keeps its arm, which is all of its traffic."""
    route = Route(task="t", primary="a", propensities={"b": 1.0})
    found = choose("t", route, policy("a", "b"), run_id="r", version=0, facts=Facts(labels={}, risk="high"))
    assert found is not None
    assert (found.candidate, found.arm, found.propensity, found.challengers) == ("a", "pinned", None, ())
    own = choose("t", Route(task="t", primary="a"), policy("a", "b", risk="high", shadow=1.0), run_id="r", version=0)
    assert own is not None
    assert (own.candidate, own.arm, own.propensity, own.shadow) == ("a", "primary", 1.0, 0.0)


def test_review_belongs_to_high_risk() -> None:
    """Of the task, of the call, or where a condition says so."""
    review = Review(model="s", draft="d")
    condition = Condition(tools=True, review=True)
    given = policy("a", review=review, conditions=(condition,))
    high, tools = Facts(labels={}, risk="high"), Facts(labels={}, tools=True)
    for facts, expected in ((NOTHING, None), (high, review), (tools, review)):
        found = choose("t", None, given, run_id="r", version=0, facts=facts)
        assert found is not None
        assert found.review == expected


def test_challengers_are_drawn_apart_from_the_arm() -> None:
    """Each of them about as often, in the share of the runs that the policy says."""
    draw = Draw(task="t", candidate="a", arm="primary", shadow=0.5, challengers=("b", "c"))
    found = Counter(challenger_of(draw, str(number)) for number in range(4000))
    assert abs(found[None] - 2000) < 150
    assert abs(found["b"] - found["c"]) < 200


# -- conditions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("condition", "facts", "expected"),
    [
        (Condition(), NOTHING, True),
        (Condition(risk=("high", "normal")), Facts(labels={}, risk="high"), True),
        (Condition(risk=("high",)), NOTHING, False),
        (Condition(tools=False), NOTHING, True),
        (Condition(tools=True), NOTHING, False),
        (Condition(min_input_tokens=100), Facts(labels={}, input_tokens=100), True),
        (Condition(min_input_tokens=100), Facts(labels={}, input_tokens=99), False),
        (Condition(max_input_tokens=100), Facts(labels={}, input_tokens=101), False),
        (Condition(max_input_tokens=100), NOTHING, False),
        (Condition(labels={"plan": "paid"}), Facts(labels={"plan": "paid", "x": "y"}), True),
        (Condition(labels={"plan": "paid"}), Facts(labels={"plan": "free"}), False),
        (Condition(labels={"plan": "paid"}, risk=("high",)), Facts(labels={"plan": "paid"}), False),
    ],
)
def test_a_condition_holds_when_all_of_it_does(condition: Condition, facts: Facts, expected: bool) -> None:
    """Risk, tools, the size of the input, labels."""
    assert matches(condition, facts) is expected


def test_the_first_condition_that_matches_decides() -> None:
    """Order is what the policy writes."""
    conditions = (Condition(tools=True), Condition(labels={"a": "b"}), Condition())
    assert first_match(conditions, Facts(labels={"a": "b"})) == 1
    assert first_match(conditions, Facts(labels={"a": "b"}, tools=True)) == 0
    assert first_match(conditions[:1], NOTHING) is None


def test_the_size_of_an_input_is_estimated() -> None:
    """Four characters a token in all that is sent as text, 800 for what is none."""
    parts = [{"type": "text", "text": "x" * 40}, {"type": "image_url", "image_url": {"url": "data:" + "y" * 9999}}]
    body = {"messages": [{"role": "system", "content": "x" * 400}, {"role": "user", "content": parts}]}
    assert estimated_input_tokens(body) == 100 + 10 + PART_TOKENS
    assert estimated_input_tokens({"input": "x" * 9, "instructions": "y" * 3}) == 3
    assert estimated_input_tokens({}) == 0
    assert offers_tools({"tools": [{}]})
    assert not offers_tools({"tools": []})
    assert offers_tools({"functions": [{}]})


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["type", "content", "text"]) | st.text(), inner)
        ),
    )
)
def test_any_body_has_a_size(value: object) -> None:
    """Whatever an application sends: a number, never an exception."""
    assert estimated_input_tokens({"messages": value, "tools": value}) >= 0
