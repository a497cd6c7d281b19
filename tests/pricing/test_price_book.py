"""The price book: overrides, catalogue, tiers, unknown models; the whole catalogue agrees with genai-prices itself."""

from __future__ import annotations

import logging
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices import Usage as CatalogueUsage
from genai_prices import data_snapshot
from genai_prices.types import TieredPrices

from tierwise.core.call import Usage
from tierwise.core.cost import cost_of
from tierwise.core.errors import ConfigError
from tierwise.pricing import catalogue, load_price_book

NOW = datetime(2026, 11, 1, tzinfo=UTC)
KNOWN_KEYS = {"input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok"}


def test_the_whole_catalogue_agrees_with_its_own_arithmetic() -> None:
    """For every model billed by plain token kinds, tiers included, cost equals `calc_price` within 1e-9."""
    checked = 0
    for provider in data_snapshot.get_snapshot().providers:
        for model in provider.models:
            price = model.get_prices(NOW)
            stated = {key: value for key, value in price.__dict__.items() if value is not None}
            if not {"input_mtok", "output_mtok"} <= stated.keys() <= KNOWN_KEYS:
                continue
            rates = catalogue.rates_of(price)
            assert rates is not None
            edges = {tier.start for value in stated.values() if isinstance(value, TieredPrices) for tier in value.tiers}
            for tokens in (0, 1, 1_000, *sorted(edges), *(edge + 1 for edge in sorted(edges)), 2_000_000):
                cached = tokens // 4 if "cache_read_mtok" in stated else 0
                theirs = price.calc_price(
                    CatalogueUsage(input_tokens=tokens, output_tokens=333, cache_read_tokens=cached)
                )
                ours = cost_of(Usage(input_tokens=tokens, output_tokens=333, cache_read_tokens=cached), rates)
                assert ours is not None
                assert ours.amount_usd == pytest.approx(float(theirs["total_price"]), rel=1e-9, abs=1e-15)
                checked += 1
    assert checked > 3_000


@pytest.mark.parametrize(
    ("provider", "model", "input_usd"),
    [
        ("openai", "gpt-5-mini", 0.25),
        ("gcp.gemini", "gemini-3.5-flash", 1.5),
        ("localhost", "claude-haiku-4-5", 1.0),
        ("localhost", "anthropic/claude-sonnet-4-5", 3.0),
        ("llm.internal", "gemini-3.5-flash", 1.5),
    ],
)
def test_models_are_found_at_their_provider_or_by_name(provider: str, model: str, input_usd: float) -> None:
    """A known provider's listing is used; behind an unknown host the model's own name leads to its listing."""
    rates = load_price_book(background=False).rates(provider=provider, model=model, service_tier=None)
    assert rates is not None
    assert (rates.bands[0].input, rates.source) == (input_usd, "catalogue")


def test_service_tier_changes_the_price() -> None:
    """BerriAI/litellm#13810: flex costs what flex costs."""
    book = load_price_book(background=False)
    flex = book.rates(provider="openai", model="gpt-5-mini", service_tier="flex")
    plain = book.rates(provider="openai", model="gpt-5-mini", service_tier="default")
    assert flex is not None
    assert plain is not None
    assert flex.bands[0].input == pytest.approx(0.125)
    assert plain.bands[0].input == pytest.approx(0.25)


def test_overrides_win_for_either_name() -> None:
    """An override of the request model, or else of the response model, wins over the catalogue."""
    book = load_price_book({"mine": {"input": 7.0}, "openai/gpt-5-mini": {"input": 8.0}}, background=False)

    def price(model: str, response_model: str | None, provider: str = "openai") -> float | None:
        rates = book.rates(provider=provider, model=model, service_tier=None, response_model=response_model)
        assert rates is not None
        return rates.bands[0].input

    assert price("mine", "gpt-5-mini") == 7.0
    assert price("gpt-5-mini", None) == 8.0
    assert price("alias", "mine") == 7.0
    assert price("gpt-5-mini", None, provider="azure.ai.openai") != 8.0


def test_the_response_model_names_the_listing() -> None:
    """Behind an alias the resolved model has the price."""
    rates = load_price_book(background=False).rates(
        provider="azure.ai.openai", model="my-deployment", service_tier=None, response_model="gpt-4o-2024-08-06"
    )
    assert rates is not None


def test_an_unknown_model_has_no_price_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Never 0, never a guess: `None`, one warning, and it is remembered."""
    book = load_price_book(background=False)
    with caplog.at_level(logging.WARNING, logger="tierwise"):
        for _ in range(3):
            assert book.rates(provider="localhost", model="my-own-finetune-x", service_tier=None) is None
    assert [record.getMessage().count("my-own-finetune-x") for record in caplog.records] == [1]
    assert book.missing == {("localhost", "my-own-finetune-x"): 1}


def test_prices_are_looked_up_again_after_a_day() -> None:
    """A price that changes by date is noticed by a process that runs for days."""
    from tierwise.pricing.book import CatalogueBook

    now = [NOW.timestamp()]
    book = CatalogueBook({}, background=False, clock=lambda: now[0])
    first = book.rates(provider="openai", model="gpt-5-mini", service_tier=None)
    assert book.rates(provider="openai", model="gpt-5-mini", service_tier=None) is first
    now[0] += 90_000
    again = book.rates(provider="openai", model="gpt-5-mini", service_tier=None)
    assert again is not first
    assert again == first


def test_background_loading_becomes_ready() -> None:
    """The catalogue loads beside the caller; overrides are known at once."""
    book = load_price_book({"mine": {"input": 1.0}})
    assert book.rates(provider="openai", model="mine", service_tier=None) is not None
    assert book.wait()
    assert book.ready
    assert book.rates(provider="openai", model="gpt-5-mini", service_tier=None) is not None


@pytest.mark.parametrize("wrong", [{"m": {"tokens": 1.0}}, {"m": {"input": -1.0}}, {"m": {"input": float("nan")}}])
def test_wrong_overrides_are_refused(wrong: dict[str, dict[str, float]]) -> None:
    """An unknown kind, a negative price and NaN raise a ConfigError."""
    with pytest.raises(ConfigError, match="prices: m"):
        load_price_book(wrong, background=False)


def test_listings_cover_the_catalogue() -> None:
    """Every token-billed model can be listed with its rates."""
    found = list(catalogue.listings(NOW))
    assert len(found) > 1_000
    assert any(item.model == "gemini-3.5-flash" and item.rates.bands[0].output == float(Decimal(9)) for item in found)


def test_no_http_client_is_half_imported_behind_the_application() -> None:
    """openai 2 looks at `sys.modules["httpx2"]` in each request: it is whole before the background loading begins."""
    code = (
        "import sys; from tierwise.pricing import load_price_book\n"
        "assert 'httpx2' not in sys.modules\n"
        "book = load_price_book({})\n"
        "assert sys.modules['httpx2'].Timeout and book.wait(30)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
