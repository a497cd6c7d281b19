"""Cost: arithmetic by kind and context tier, provider-reported figures, what has no price."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tierwise.core.call import Usage
from tierwise.core.cost import Cost, RateBand, Rates, cost_of, flat_rates, provider_cost

RATES = flat_rates(input=2.0, output=10.0, cache_read=0.5, cache_write=2.5, reasoning=12.0)
AUDIO = flat_rates(input=2.0, output=10.0, input_audio=40.0, output_audio=80.0, cache_read=0.5)
TIERED = Rates(
    source="catalogue",
    bands=(
        RateBand(input=1.0, output=5.0),
        RateBand(above_input_tokens=200_000, input=2.0, output=7.5),
        RateBand(above_input_tokens=500_000, input=4.0, output=15.0),
    ),
)


def amount(rates: Rates | None, **tokens: Any) -> float | None:
    cost = cost_of(Usage(**tokens), rates)
    return None if cost is None else cost.amount_usd


@pytest.mark.parametrize(
    ("rates", "tokens", "usd"),
    [
        (RATES, {"input_tokens": 1_000_000, "output_tokens": 0}, 2.0),
        (RATES, {"input_tokens": 0, "output_tokens": 1_000_000}, 10.0),
        (RATES, {"input_tokens": 1_000_000, "output_tokens": 0, "cache_read_tokens": 400_000}, 1.2 + 0.2),
        (RATES, {"input_tokens": 1_000_000, "output_tokens": 0, "cache_write_tokens": 400_000}, 1.2 + 1.0),
        (RATES, {"input_tokens": 0, "output_tokens": 1_000_000, "reasoning_tokens": 500_000}, 5.0 + 6.0),
        (flat_rates(input=2.0, output=10.0), {"input_tokens": 10, "output_tokens": 10, "reasoning_tokens": 9}, 120e-6),
        (flat_rates(input=2.0, output=10.0), {"input_tokens": 10, "output_tokens": 0, "cache_read_tokens": 9}, 20e-6),
        (AUDIO, {"input_tokens": 10, "output_tokens": 10, "input_audio_tokens": 4, "output_audio_tokens": 10}, 972e-6),
        (flat_rates(input=2.0), {"input_tokens": 1_000_000}, 2.0),
        (flat_rates(input=0.0, output=0.0), {"input_tokens": 5, "output_tokens": 5}, 0.0),
        (flat_rates(input=1.0, output=1.0, request_usd=0.005), {"input_tokens": 0, "output_tokens": 0}, 0.005),
        (TIERED, {"input_tokens": 200_000, "output_tokens": 1_000}, 0.2 + 0.005),
        (TIERED, {"input_tokens": 200_001, "output_tokens": 1_000}, 0.400002 + 0.0075),
        (TIERED, {"input_tokens": 600_000, "output_tokens": 1_000}, 2.4 + 0.015),
    ],
)
def test_cost_by_kind(rates: Rates, tokens: dict[str, int], usd: float) -> None:
    """Tokens times rates by kind; kinds without a rate are billed as part of their parent."""
    assert amount(rates, **tokens) == pytest.approx(usd, rel=1e-12)


@pytest.mark.parametrize(
    ("rates", "tokens"),
    [
        (None, {"input_tokens": 1, "output_tokens": 1}),
        (RATES, {}),
        (RATES, {"input_tokens": 1}),
        (RATES, {"output_tokens": 1}),
        (RATES, {"input_tokens": -1, "output_tokens": 1}),
        (RATES, {"input_tokens": 1, "output_tokens": -1}),
        (RATES, {"input_tokens": 1, "output_tokens": 1, "cache_read_tokens": 2}),
        (RATES, {"input_tokens": 1, "output_tokens": 1, "cache_read_tokens": -2}),
        (RATES, {"input_tokens": 1, "output_tokens": 1, "reasoning_tokens": 2}),
        (AUDIO, {"input_tokens": 9, "output_tokens": 1, "cache_read_tokens": 2, "input_audio_tokens": 2}),
        (flat_rates(input=2.0), {"input_tokens": 1, "output_tokens": 1}),
        (flat_rates(output=2.0), {"input_tokens": 1, "output_tokens": 1}),
    ],
)
def test_what_is_not_known_has_no_cost(rates: Rates | None, tokens: dict[str, int]) -> None:
    """Missing tokens, missing rates and counts that contradict each other give no cost, never 0."""
    assert amount(rates, **tokens) is None


def test_without_usage_there_is_no_cost() -> None:
    """A call that reported nothing costs an unknown amount."""
    assert cost_of(None, RATES) is None


@pytest.mark.parametrize("rates", [None, RATES])
def test_the_providers_figure_wins(rates: Rates | None) -> None:
    """What the provider says it charged stands above any catalogue."""
    usage = Usage(input_tokens=10, output_tokens=10, provider_cost_usd=0.5)
    assert cost_of(usage, rates) == Cost(amount_usd=0.5, source="provider")


def test_the_source_is_that_of_the_rates() -> None:
    """A cost says whether it comes from an override or the catalogue."""
    usage = Usage(input_tokens=1, output_tokens=1)
    sources = [cost_of(usage, replace(RATES, source=source)) for source in ("override", "catalogue")]
    assert [cost and cost.source for cost in sources] == ["override", "catalogue"]


tokens_st = st.integers(0, 3_000_000)
rate_st = st.floats(0, 200, allow_nan=False)
flat_st = st.builds(
    flat_rates,
    input=rate_st,
    output=rate_st,
    cache_read=st.none() | rate_st,
    cache_write=st.none() | rate_st,
    reasoning=st.none() | rate_st,
)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    """A usage whose parts fit into their wholes."""
    cached, written, rest = draw(tokens_st), draw(tokens_st), draw(tokens_st)
    reasoning, said = draw(tokens_st), draw(tokens_st)
    return Usage(
        input_tokens=cached + written + rest,
        output_tokens=reasoning + said,
        cache_read_tokens=cached,
        cache_write_tokens=written,
        reasoning_tokens=reasoning,
    )


def plus(one: Usage, two: Usage) -> Usage:
    names = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
    return Usage(**{name: getattr(one, name) + getattr(two, name) for name in names})


def usd(usage: Usage, rates: Rates) -> float:
    cost = cost_of(usage, rates)
    assert cost is not None
    return cost.amount_usd


@given(usages(), usages(), flat_st)
def test_flat_rates_add_up(one: Usage, two: Usage, rates: Rates) -> None:
    """Two calls cost together what their sum costs at once."""
    assert usd(plus(one, two), rates) == pytest.approx(usd(one, rates) + usd(two, rates), rel=1e-9, abs=1e-12)


@given(usages(), flat_st, st.integers(0, 10_000), st.integers(0, 10_000))
def test_more_tokens_never_cost_less(usage: Usage, rates: Rates, more_in: int, more_out: int) -> None:
    """Cost is monotone in uncached input and in output."""
    assert usage.input_tokens is not None
    assert usage.output_tokens is not None
    more = replace(usage, input_tokens=usage.input_tokens + more_in, output_tokens=usage.output_tokens + more_out)
    assert usd(more, rates) >= usd(usage, rates) * (1 - 1e-12)


@given(flat_st, st.floats(0, 1, allow_nan=False))
def test_no_tokens_cost_the_fee_alone(rates: Rates, fee: float) -> None:
    """A call of no tokens costs exactly what is charged for each call, usually nothing."""
    nothing = Usage(input_tokens=0, output_tokens=0)
    assert usd(nothing, rates) == 0
    assert usd(nothing, replace(rates, request_usd=fee)) == fee


@given(usages(), flat_st, st.integers(0, 10_000), st.integers(0, 10_000), st.integers(0, 10_000))
def test_more_of_any_kind_never_costs_less(usage: Usage, rates: Rates, read: int, written: int, thought: int) -> None:
    """Cached, written and reasoning tokens that come on top of a call only add to its cost."""
    more = Usage(
        input_tokens=read + written,
        output_tokens=thought,
        cache_read_tokens=read,
        cache_write_tokens=written,
        reasoning_tokens=thought,
    )
    assert usd(plus(usage, more), rates) >= usd(usage, rates) * (1 - 1e-12)


@given(usages())
def test_tiers_are_cliffs(usage: Usage) -> None:
    """All tokens of a call are billed at the rates of the one band that its input falls into."""
    assert usage.input_tokens is not None
    above = [band for band in TIERED.bands if usage.input_tokens > band.above_input_tokens]
    band = above[-1] if above else TIERED.bands[0]
    assert usd(usage, TIERED) == usd(usage, Rates(source="catalogue", bands=(replace(band, above_input_tokens=0),)))


@given(flat_st, flat_st)
def test_identity_changes_exactly_with_the_rates(one: Rates, two: Rates) -> None:
    """Equal rates have equal identities whatever their source; different ones differ."""
    assert one.identity == Rates(source="catalogue", bands=one.bands, as_of="other").identity
    assert len(one.identity) == 8
    assume(one.bands != two.bands)
    assert one.identity != two.identity


def test_identity_is_stable() -> None:
    """Stored epochs stay what they are: this identity may never change."""
    assert flat_rates(input=1.5, output=9.0).identity == flat_rates(input=1.5, output=9).identity == "15fdcba6"
    assert RATES.identity != replace(RATES, request_usd=0.1, identity="").identity


def test_rates_need_a_band() -> None:
    """Rates without any band are a mistake."""
    with pytest.raises(ValueError, match="at least one band"):
        Rates(source="override", bands=())


@pytest.mark.parametrize(
    ("usage", "headers", "usd"),
    [
        (None, None, None),
        ({}, {}, None),
        ({"cost": 0.00014}, None, 0.00014),
        ({"cost": 0}, None, 0.0),
        ({"cost": {"total_cost": 0.006, "request_cost": 0.005}}, None, 0.006),
        ({"cost": {"total": 0.01}}, None, 0.01),
        ({"cost": 0.001, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.02}}, None, 0.021),
        ({"cost": 0.001, "is_byok": True}, None, None),
        ({"cost": 0.001, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.02}}, None, 0.001),
        ({"cost_in_usd_ticks": 37_756_000}, None, 0.0037756),
        ({"estimated_cost": 0.002}, None, 0.002),
        ({}, {"x-litellm-response-cost": "0.00123"}, 0.00123),
        (None, {"x-litellm-response-cost": "1e-05"}, 1e-05),
        ({"cost": 0.5}, {"x-litellm-response-cost": "0.1"}, 0.5),
        ({"cost": "0.5"}, None, None),
        ({"cost": True}, None, None),
        ({"cost": -1.0}, None, None),
        ({"cost": math.nan}, None, None),
        ({"cost": math.inf}, None, None),
        ({"cost": 10**400}, None, None),
        ({"cost": 1e9}, None, None),
        ({"cost_in_usd_ticks": -5}, None, None),
        (None, {"x-litellm-response-cost": "None"}, None),
        (None, {"x-litellm-response-cost": "nan"}, None),
        (None, {"x-litellm-response-cost": "9" * 10_000}, None),
    ],
)
def test_provider_reported_cost(
    usage: dict[str, object] | None, headers: dict[str, str] | None, usd: float | None
) -> None:
    """Every known way of reporting a cost is read; anything odd is as if nothing was said."""
    assert provider_cost(usage, headers) == (None if usd is None else pytest.approx(usd, rel=1e-12))


json_st = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = ("cost", "is_byok", "cost_details", "cost_in_usd_ticks", "estimated_cost")


@given(st.dictionaries(st.sampled_from(NAMES), json_st), st.text(max_size=80))
def test_reported_costs_never_raise(usage: dict[str, object], header: str) -> None:
    """Whatever a server says, the figure is finite and not negative, or absent."""
    found = provider_cost(usage, {"x-litellm-response-cost": header})
    assert found is None or 0 <= found < math.inf
