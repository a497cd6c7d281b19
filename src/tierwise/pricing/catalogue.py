"""The genai-prices catalogue as `Rates`: look-up by provider and model, prices in force at a date. No network."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final

from genai_prices import __version__ as _version
from genai_prices import data_snapshot
from genai_prices.types import (
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
    TieredPrices,
    TimeOfDateConstraint,
)

from tierwise.core.cost import RateBand, Rates
from tierwise.core.records import dataclass

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

_UNLISTED: Final = frozenset({"ibm.watsonx.ai", "router.huggingface.co"})
"""Sellers of other people's models at prices of their own, which the catalogue does not have."""

_VENDORS: Final = {
    "amazon": "aws",
    "azure_ai": "azure",
    "cohere_chat": "cohere",
    "fireworks_ai": "fireworks",
    "together_ai": "together",
    "z-ai": "zai",
}
"""Prefixes that gateways put before model names → the catalogue's ids, where it does not know them itself."""

_BEDROCK_NAME: Final = re.compile(r"(?:^|[./])(?:anthropic|amazon)\.")
_MAX_NAME: Final = 256

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

    A provider with a listing of its own, known by its name in the conventions or by its host, decides alone. For a
    gateway or an unknown host the model's first-party listing does, found by its name, with a `vendor/` prefix taken for
    the provider when it is one. Names with a tag (`deepseek-r1:14b`) behind an unknown host are local models: no price.
    """
    name = model.lower()
    if len(name) > _MAX_NAME or provider in _UNLISTED:
        return None
    providers = data_snapshot.get_snapshot().providers
    own = _provider(providers, provider)
    found = _behind_unknown_host(providers, name) if own is None else _listed(providers, own, name)
    if found is None:
        return None
    owner, info = found
    # As in genai-prices: another provider's model, reached through a fallback, has no variants here.
    context = _context(service_tier) if any(info is one for one in owner.models) else None
    return rates_of(info.get_prices(now, context))


def _provider(providers: list[Provider], provider: str) -> Provider | None:
    """The catalogue's provider for a name of the conventions, or for the host that stands in for one."""
    provider_id = _PROVIDER_IDS.get(provider)
    if provider_id is not None:
        return data_snapshot.find_provider_by_id(providers, provider_id)
    if "." not in provider or len(provider) > _MAX_NAME:
        return None
    url = f"https://{provider}/"
    return next((one for one in providers if re.match(one.api_pattern, url)), None)


def _listed(providers: list[Provider], provider: Provider, name: str) -> tuple[Provider, ModelInfo] | None:
    """A model in one provider's listing, by its whole name or by the last part of it."""
    for form in dict.fromkeys((name, name.rpartition("/")[2])):
        info = provider.find_model(form, all_providers=providers)
        if info is not None:
            return provider, info
    return None


def _behind_unknown_host(providers: list[Provider], name: str) -> tuple[Provider, ModelInfo] | None:
    """A model by its name alone.

    Not by `DataSnapshot.find_provider_model`: it remembers every unknown name for ever, and servers choose names.
    """
    tag = name.rpartition(":")[2] if ":" in name else ""
    if tag and not tag.isdigit() and not name.startswith(("ft:", "openrouter/")):
        return None
    found = _first_party(providers, name)
    if found is not None or "/" not in name:
        return found
    vendor, _, rest = name.partition("/")
    named = data_snapshot.find_provider_by_id(providers, _VENDORS.get(vendor, vendor))
    found = None if named is None else _listed(providers, named, rest)
    return found or _first_party(providers, name.rpartition("/")[2])


def _first_party(providers: list[Provider], name: str) -> tuple[Provider, ModelInfo] | None:
    if _BEDROCK_NAME.search(name):
        named = data_snapshot.find_provider_by_id(providers, "aws")
    elif name.startswith("sonar"):
        named = data_snapshot.find_provider_by_id(providers, "perplexity")
    else:
        named = next((one for one in providers if one.model_match is not None and one.model_match.is_match(name)), None)
    info = None if named is None else named.find_model(name, all_providers=providers)
    return None if named is None or info is None else (named, info)


def _context(service_tier: str | None) -> dict[str, str] | None:
    tier = (service_tier or "").lower()
    if tier in ("", "auto", "standard"):
        return None
    return {"processing": "batch"} if tier == "batch" else {"service_tier": tier}


def next_change(now: datetime) -> datetime:
    """When rates may change next: the coming midnight UTC (start dates) or the edge of a daily price window."""
    edges = [datetime.combine(now.astimezone(UTC), edge, UTC) for edge in _window_edges()]
    return min(edge if edge > now else edge + timedelta(days=1) for edge in edges)


@functools.cache
def _window_edges() -> frozenset[time]:
    """The times of day (UTC) at which some model's price changes, midnight included."""
    edges = {time.min}
    for provider in data_snapshot.get_snapshot().providers:
        for model in provider.models:
            priced: list[Any] = [
                *(model.prices if isinstance(model.prices, list) else ()),
                *(model.price_variants or ()),
            ]
            for one in priced:
                if isinstance(one.constraint, TimeOfDateConstraint):
                    edges |= {_in_utc(one.constraint.start_time), _in_utc(one.constraint.end_time)}
    return frozenset(edges)


def _in_utc(moment: time) -> time:
    if moment.tzinfo is None:
        return moment
    return datetime.combine(date(2000, 1, 2), moment).astimezone(UTC).time()


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """How current the installed catalogue is. It has no date of its own: its newest dated changes of prices tell.

    `latest_change` is in force, `next_change` is announced for later; `models` are those billed by tokens.
    """

    version: str
    providers: int
    models: int
    latest_change: date | None
    next_change: date | None


def describe(now: datetime) -> Catalogue:
    """The catalogue in a few figures, at a date."""
    providers = data_snapshot.get_snapshot().providers
    dated = (price for provider in providers for model in provider.models for price in _conditional(model))
    changes = {price.constraint.start_date for price in dated if isinstance(price.constraint, StartDateConstraint)}
    return Catalogue(
        version=AS_OF,
        providers=len(providers),
        models=sum(1 for _ in listings(now)),
        latest_change=max((day for day in changes if day <= now.date()), default=None),
        next_change=min((day for day in changes if day > now.date()), default=None),
    )


def _conditional(model: ModelInfo) -> list[ConditionalPrice]:
    return model.prices if isinstance(model.prices, list) else []


def listings(now: datetime) -> Iterator[Listing]:
    """Every model of the catalogue that is billed by tokens."""
    provider: Provider
    for provider in data_snapshot.get_snapshot().providers:
        for model in provider.models:
            rates = rates_of(model.get_prices(now))
            if rates is not None:
                yield Listing(provider=provider.id, model=model.id, name=model.name or model.id, rates=rates)
