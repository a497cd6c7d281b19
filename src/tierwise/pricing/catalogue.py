"""The genai-prices catalogue as `Rates`: look-up by provider and model, prices in force at a date. No network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from genai_prices import __version__ as _version
from genai_prices import data_snapshot
from genai_prices.types import ModelInfo, ModelPrice, Provider, TieredPrices

from tierwise.core.cost import RateBand, Rates

AS_OF: Final = f"genai-prices {_version}"

_PROVIDER_IDS: Final = {
    "openai": "openai",
    "azure.ai.openai": "azure",
    "azure.ai.inference": "azure",
    "aws.bedrock": "aws",
    "gcp.gemini": "google",
    "gcp.gen_ai": "google",
    "gcp.vertex_ai": "google",
    "mistral_ai": "mistral",
    "moonshot_ai": "moonshotai",
    "x_ai": "x-ai",
    "anthropic": "anthropic",
    "groq": "groq",
    "deepseek": "deepseek",
    "cohere": "cohere",
    "perplexity": "perplexity",
    "openrouter": "openrouter",
    "together": "together",
    "cerebras": "cerebras",
    "fireworks": "fireworks",
}
"""Provider names of the GenAI conventions → the catalogue's ids."""

_KINDS: Final = {
    "input_mtok": "input",
    "output_mtok": "output",
    "cache_read_mtok": "cache_read",
    "cache_write_mtok": "cache_write",
    "output_reasoning_mtok": "reasoning",
    "input_audio_mtok": "input_audio",
    "output_audio_mtok": "output_audio",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """One model of one provider in the catalogue, with the rates in force."""

    provider: str
    model: str
    name: str
    rates: Rates


def load() -> None:
    """Read the catalogue's data into memory (tens of milliseconds)."""
    data_snapshot.get_snapshot()


def find(provider: str, model: str, service_tier: str | None, now: datetime) -> Rates | None:
    """The rates of a model, or `None`.

    A known provider's own listing decides; for a gateway or an unknown host the model's first-party listing does,
    found by its name, with a `vendor/` prefix taken for the provider when it is one.
    """
    snapshot = data_snapshot.get_snapshot()
    provider_id = _PROVIDER_IDS.get(provider)
    if provider_id is not None:
        found = _lookup(snapshot, model, provider_id)
        if found is None and "/" in model:
            found = _lookup(snapshot, model.rpartition("/")[2], provider_id)
    else:
        found = _lookup(snapshot, model, None)
        if found is None and "/" in model:
            vendor, _, name = model.partition("/")
            found = _lookup(snapshot, name, vendor) or _lookup(snapshot, model.rpartition("/")[2], None)
    return None if found is None else rates_of(found.get_prices(now, _context(service_tier)))


def _lookup(snapshot: data_snapshot.DataSnapshot, model: str, provider_id: str | None) -> ModelInfo | None:
    try:
        return snapshot.find_provider_model(model, None, provider_id, None)[1]
    except LookupError:
        return None


def _context(service_tier: str | None) -> Any:
    return None if service_tier in (None, "auto", "default", "standard") else {"service_tier": service_tier}


def rates_of(price: ModelPrice) -> Rates | None:
    """One model price as rates in USD per million tokens; `None` for models that are not billed by tokens."""
    plain: dict[str, float] = {}
    tiered: dict[str, TieredPrices] = {}
    for key, kind in _KINDS.items():
        value = price.__dict__.get(key)
        if isinstance(value, TieredPrices):
            tiered[kind] = value
        elif isinstance(value, Decimal):
            plain[kind] = float(value)
    if not plain and not tiered:
        return None
    starts = sorted({tier.start for prices in tiered.values() for tier in prices.tiers})
    bands = tuple(
        RateBand(above_input_tokens=start, **plain, **{kind: _at(prices, start) for kind, prices in tiered.items()})
        for start in (0, *starts)
    )
    requests = price.__dict__.get("requests_kcount")
    fee = float(requests) / 1000 if isinstance(requests, Decimal) else 0.0
    return Rates(source="catalogue", bands=bands, request_usd=fee, as_of=AS_OF)


def _at(prices: TieredPrices, start: int) -> float:
    found = prices.base
    for tier in prices.tiers:
        if tier.start <= start and start:
            found = tier.price
    return float(found)


def listings(now: datetime) -> Iterator[Listing]:
    """Every model of the catalogue that is billed by tokens."""
    provider: Provider
    for provider in data_snapshot.get_snapshot().providers:
        for model in provider.models:
            rates = rates_of(model.get_prices(now))
            if rates is not None:
                yield Listing(provider=provider.id, model=model.id, name=model.name or model.id, rates=rates)
