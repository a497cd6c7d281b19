"""How a provider and a model name lead to rates: hosts, prefixes, tiers, price windows, overrides laid over listings."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import pytest
from genai_prices import Usage as CatalogueUsage
from genai_prices import calc_price, data_snapshot
from genai_prices.types import Provider
from hypothesis import given, settings
from hypothesis import strategies as st

from tierwise.core.call import Usage
from tierwise.core.cost import Rates, cost_of
from tierwise.pricing import CatalogueBook, catalogue, load_price_book
from tierwise.pricing.book import _MAX_KNOWN

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("processing", "kinds"), [(None, {"cache_read_tokens": 300, "cache_write_tokens": 200}), ("batch", {})]
)
def test_every_listing_costs_what_genai_prices_says(processing: str | None, kinds: dict[str, int]) -> None:
    """Whole catalogue, audio, per-request fees, tiers and batch prices included: equal within 1e-9 relative."""
    context = {"processing": processing} if processing else None
    compared = 0
    for provider in data_snapshot.get_snapshot().providers:
        for model in provider.models:
            price = model.get_prices(NOW, context)
            rates = catalogue.rates_of(price)
            if rates is None or rates.bands[0].input is None:
                continue
            output = 0 if rates.bands[0].output is None else 777
            for tokens in (1_000, 200_001, 600_000):
                theirs = price.calc_price(CatalogueUsage(input_tokens=tokens, output_tokens=output, **kinds))
                ours = cost_of(Usage(input_tokens=tokens, output_tokens=output, **kinds), rates)
                assert ours is not None
                assert ours.amount_usd == pytest.approx(float(theirs["total_price"]), rel=1e-9, abs=1e-15)
                compared += 1
    assert compared > 5_000


@pytest.mark.parametrize("tier", [None, "default", "flex", "priority", "batch", "fast"])
@pytest.mark.parametrize("model", ["gpt-5-mini", "gpt-5", "o3", "gpt-4o"])
def test_service_tiers_cost_what_the_catalogue_says(model: str, tier: str | None) -> None:
    """BerriAI/litellm#13810: flex, priority and batch are billed at their own rates where the catalogue has them."""
    context = {"processing": "batch"} if tier == "batch" else {"service_tier": tier} if tier else None
    rates = catalogue.find("openai", model, tier, NOW)
    theirs = calc_price(
        CatalogueUsage(input_tokens=1_000, output_tokens=100),
        model,
        provider_id="openai",
        genai_request_timestamp=NOW,
        price_context=context,
    )
    ours = cost_of(Usage(input_tokens=1_000, output_tokens=100), rates)
    assert ours is not None
    assert ours.amount_usd == pytest.approx(float(theirs.total_price), rel=1e-9)


@pytest.mark.parametrize(
    ("provider", "model", "listed_at", "listed_as"),
    [
        ("gcp.gemini", "models/gemini-2.5-flash", "google", "gemini-2.5-flash"),
        ("gcp.vertex_ai", "google/gemini-2.5-flash", "google", "gemini-2.5-flash"),
        ("azure.ai.openai", "gpt-4o-2024-08-06", "openai", "gpt-4o"),
        ("openrouter", "anthropic/claude-sonnet-4.5", "openrouter", "anthropic/claude-sonnet-4.5"),
        ("api.z.ai", "glm-4.6", "zai", "glm-4.6"),
        ("localhost", "claude-sonnet-4-5-20250929", "anthropic", "claude-sonnet-4-5"),
        ("localhost", "Claude-Haiku-4-5", "anthropic", "claude-haiku-4-5"),
        ("localhost", "gemini/gemini-2.5-pro", "google", "gemini-2.5-pro"),
        ("localhost", "vertex_ai/gemini-2.5-pro", "google", "gemini-2.5-pro"),
        ("localhost", "our-gateway/claude-haiku-4-5", "anthropic", "claude-haiku-4-5"),
        ("localhost", "openrouter/anthropic/claude-sonnet-4.5", "openrouter", "anthropic/claude-sonnet-4.5"),
        ("localhost", "groq/llama-3.3-70b-versatile", "groq", "llama-3.3-70b-versatile"),
        (
            "localhost",
            "us.anthropic.claude-haiku-4-5-20251001-v1:0",
            "aws",
            "us.anthropic.claude-haiku-4-5-20251001-v1:0",
        ),
        ("localhost", "sonar", "perplexity", "sonar"),
        ("localhost", "grok-4", "x-ai", "grok-4"),
    ],
)
def test_names_lead_to_the_right_listing(provider: str, model: str, listed_at: str, listed_as: str) -> None:
    """Conventions' names, hosts, vendor prefixes, dates and case all lead to the listing that bills the call."""
    listing = next(one for one in data_snapshot.get_snapshot().providers if one.id == listed_at)
    info = listing.find_model(listed_as)
    assert info is not None
    wanted = catalogue.rates_of(info.get_prices(NOW))
    assert wanted is not None
    assert catalogue.find(provider, model, None, NOW) == wanted


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("groq", "claude-haiku-4-5"),
        ("ibm.watsonx.ai", "mistralai/mistral-large"),
        ("router.huggingface.co", "deepseek-ai/DeepSeek-V3"),
        ("localhost", "deepseek-r1:14b"),
        ("localhost", "llama3.2"),
        ("localhost", "gpt-oss:20b"),
        ("openai", "whisper-1"),
        ("localhost", ""),
        ("localhost", "x" * 100_000),
        ("localhost", "\ud800"),
    ],
)
def test_no_price_is_guessed(provider: str, model: str) -> None:
    """Another seller's price, a local model's list price and nonsense are no price."""
    assert catalogue.find(provider, model, None, NOW) is None


@settings(max_examples=40)
@given(st.text(st.characters(codec=None), max_size=30), st.text(st.characters(codec=None), max_size=30))
def test_any_name_has_an_answer(provider: str, model: str) -> None:
    """Look-ups of hostile names never raise."""
    found = catalogue.find(provider, model, "auto", NOW)
    assert found is None or isinstance(found, Rates)


def test_prices_by_time_of_day_are_followed() -> None:
    """A model with off-peak prices changes its rates at the edge of the window, not a day after the last look-up."""
    now = [datetime(2026, 11, 1, 0, 10, tzinfo=UTC).timestamp()]
    book = CatalogueBook({}, background=False, clock=lambda: now[0])
    seen = []
    for hour in range(25):
        rates = book.rates(provider="deepseek", model="deepseek-chat", service_tier=None)
        at = datetime.fromtimestamp(now[0], UTC)
        assert rates == catalogue.find("deepseek", "deepseek-chat", None, at), hour
        seen.append(rates)
        now[0] += 3_600
    assert len({rates.identity for rates in seen if rates}) > 1


def test_the_next_change_is_never_far() -> None:
    """Midnight UTC at the latest, where start dates take effect; always after now."""
    for minutes in range(0, 1_440, 7):
        at = datetime(2026, 11, 1, tzinfo=UTC) + timedelta(minutes=minutes)
        change = catalogue.next_change(at)
        assert at < change <= datetime(2026, 11, 2, tzinfo=UTC)


def test_rates_at_a_time_recompute_history() -> None:
    """A price that changes by date is looked up as of the call's time."""
    book = load_price_book(background=False)
    asked = {"provider": "gcp.gemini", "model": "gemini-3.6-flash", "service_tier": None}
    before = book.rates_at(**asked, at_s=datetime(2026, 12, 31, 23, tzinfo=UTC).timestamp())  # type: ignore[arg-type]
    after = book.rates_at(**asked, at_s=datetime(2027, 1, 1, tzinfo=UTC).timestamp())  # type: ignore[arg-type]
    assert before is not None
    assert after is not None
    assert (before.bands[0].input, after.bands[0].input) == (0.75, 1.5)


def test_an_override_of_one_kind_leaves_the_rest_to_the_catalogue() -> None:
    """`prices: {claude-sonnet-4-5: {output: 7}}` changes the output rate in every context tier and nothing else."""
    listed = load_price_book(background=False).rates(provider="anthropic", model="claude-sonnet-4-5", service_tier=None)
    rates = load_price_book({"claude-sonnet-4-5": {"output": 7.0}}, background=False).rates(
        provider="anthropic", model="claude-sonnet-4-5", service_tier=None
    )
    assert listed is not None
    assert rates is not None
    assert rates.source == "override"
    assert [band.output for band in rates.bands] == [7.0] * len(listed.bands)
    assert [(band.input, band.cache_read) for band in rates.bands] == [
        (band.input, band.cache_read) for band in listed.bands
    ]


def test_an_override_of_input_and_output_stands_alone() -> None:
    """Whoever states input and output states the whole price: no catalogue rate shows through."""
    rates = load_price_book({"gpt-5": {"input": 1.0, "output": 2.0}}, background=False).rates(
        provider="openai", model="gpt-5", service_tier="flex"
    )
    assert rates is not None
    assert (rates.source, len(rates.bands), rates.bands[0].cache_read) == ("override", 1, None)


@pytest.mark.parametrize("model", ["Gpt-4o", "gpt-4o-2024-08-06", "gpt-4o-20240806", "azure/gpt-4o"])
def test_overrides_match_any_spelling_of_the_model(model: str) -> None:
    """Case, dates at the end and vendor prefixes do not hide a model from its override."""
    rates = load_price_book({"GPT-4o": {"input": 1.0, "output": 2.0}}, background=False).rates(
        provider="localhost", model=model, service_tier=None
    )
    assert rates is not None
    assert rates.source == "override"


def test_unknown_names_take_bounded_memory(caplog: pytest.LogCaptureFixture) -> None:
    """A server that makes up a model name for each answer fills nothing without limit, the log included."""
    book = load_price_book(background=False)
    with caplog.at_level(logging.WARNING, logger="tierwise"):
        for number in range(_MAX_KNOWN + 200):
            assert book.rates(provider="localhost", model=f"made-up-{number}", service_tier=None) is None
    assert len(book.missing) == len(caplog.records) == _MAX_KNOWN
    snapshot = data_snapshot.get_snapshot()
    assert not any("made-up" in str(key) for key in snapshot._provider_misses)


def test_a_catalogue_that_cannot_be_read_leaves_overrides(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A broken catalogue is said once; overrides still price calls and everything else has no cost."""

    def broken() -> None:
        raise OSError("disk")

    monkeypatch.setattr(catalogue, "load", broken)
    book = load_price_book({"mine": {"input": 1.0, "output": 2.0}}, background=False)
    assert book.ready
    assert "cannot be read" in caplog.text
    assert book.rates(provider="openai", model="mine", service_tier=None) is not None
    assert book.rates(provider="openai", model="gpt-5", service_tier=None) is None


def test_every_named_provider_is_in_the_catalogue() -> None:
    """The table of provider names leads to listings that exist."""
    providers: dict[str, Provider] = {one.id: one for one in data_snapshot.get_snapshot().providers}
    assert set(catalogue._PROVIDER_IDS.values()) <= set(providers)
    assert set(catalogue._VENDORS.values()) <= set(providers)
