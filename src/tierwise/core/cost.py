"""Money: rates per token and what one call costs. Rates are USD per million tokens, costs are USD."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Final, Literal

from tierwise.core.records import dataclass, maker, quick

if TYPE_CHECKING:
    from tierwise.core.call import Usage

CostSource = Literal["provider", "override", "catalogue"]

KINDS: Final[tuple[str, ...]] = (
    "input", "output", "cache_read", "cache_write", "reasoning", "input_audio", "output_audio",
)  # fmt: skip
"""Token kinds that can have a rate of their own, as `prices:` in tierwise.yaml names them."""

_MILLION: Final = 1_000_000
_MOST_PLAUSIBLE_USD: Final = 1e6
_TICKS_PER_USD: Final = 10**10
_LITELLM_HEADER: Final = "x-litellm-response-cost"


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of one call in USD and where the figure comes from."""

    amount_usd: float
    source: CostSource


_make_cost: Final = maker(Cost)


@dataclass(frozen=True, slots=True, kw_only=True)
class RateBand:
    """Rates in USD per million tokens that hold when a call's input is longer than `above_input_tokens`.

    A kind without a rate (`None`) is billed as part of its parent: cached and audio input as input, reasoning and audio
    output as output. A parent without a rate has no known price, which is not the same as a rate of 0.
    """

    above_input_tokens: int = 0
    input: float | None = None
    output: float | None = None
    cache_read: float | None = None
    cache_write: float | None = None
    reasoning: float | None = None
    input_audio: float | None = None
    output_audio: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a model's tokens cost: one band, or several where the price depends on the length of the input.

    `bands` is never empty and ascends by threshold; the first band holds for every length below the second's, and the
    rates of a band apply to all tokens of the call. Context tiers are cliffs, as providers bill them.
    """

    source: CostSource
    bands: tuple[RateBand, ...]
    request_usd: float = 0.0
    """A fee for each call, in USD, besides its tokens."""
    as_of: str = ""
    """Which catalogue the rates come from, e.g. `genai-prices 0.2.3`; empty for overrides."""
    identity: str = field(default="")
    """Eight hex characters that change exactly when a rate changes; part of a candidate's epoch."""

    def __post_init__(self) -> None:
        if not self.bands:
            msg = "rates need at least one band"
            raise ValueError(msg)
        if not self.identity:
            object.__setattr__(self, "identity", _identity(self.bands, self.request_usd))


def flat_rates(
    *,
    input: float | None = None,  # noqa: A002
    output: float | None = None,
    cache_read: float | None = None,
    cache_write: float | None = None,
    reasoning: float | None = None,
    input_audio: float | None = None,
    output_audio: float | None = None,
    request_usd: float = 0.0,
    source: CostSource = "override",
    as_of: str = "",
) -> Rates:
    """Rates of a single band, USD per million tokens: `flat_rates(input=1.5, output=9.0)`."""
    band = RateBand(
        input=input,
        output=output,
        cache_read=cache_read,
        cache_write=cache_write,
        reasoning=reasoning,
        input_audio=input_audio,
        output_audio=output_audio,
    )
    return Rates(source=source, as_of=as_of, request_usd=request_usd, bands=(band,))


def cost_of(usage: Usage | None, rates: Rates | None) -> Cost | None:
    """The cost of one call in USD: the provider's own figure when it gave one, else tokens times rates.

    Input includes cached tokens and output includes reasoning tokens, so these are subtracted where they have a rate of
    their own. `None` (never 0, never a guess) when tokens or rates are missing, when counts contradict each other, or
    when cached and audio input overlap by an amount that nobody reported.
    """
    if usage is None:
        return None
    reported = usage.provider_cost_usd
    if reported is not None:
        return _make_cost(reported, "provider")
    tokens_in = usage.input_tokens
    if rates is None or tokens_in is None or tokens_in < 0:
        return None
    bands = rates.bands
    band = bands[0]
    if len(bands) > 1:
        for candidate in bands:
            if tokens_in > candidate.above_input_tokens:
                band = candidate
    input_sum = _input_sum(usage, band, tokens_in)
    output_sum = _output_sum(usage, band)
    if input_sum is None or output_sum is None:
        return None
    return _make_cost((input_sum + output_sum) / _MILLION + rates.request_usd, rates.source)


def _input_sum(usage: Usage, band: RateBand, tokens: int) -> float | None:
    """Σ tokens × rate over the input kinds, in millionths of a USD."""
    total = 0.0
    cached = usage.cache_read_tokens
    if cached and band.cache_read is not None:
        if cached < 0:
            return None
        tokens -= cached
        total = cached * band.cache_read
    written = usage.cache_write_tokens
    if written and band.cache_write is not None:
        if written < 0:
            return None
        tokens -= written
        total += written * band.cache_write
    audio = usage.input_audio_tokens
    if audio and band.input_audio is not None:
        if audio < 0 or (cached and band.cache_read is not None) or (written and band.cache_write is not None):
            return None
        tokens -= audio
        total += audio * band.input_audio
    if tokens <= 0:
        return total if tokens == 0 else None
    return None if band.input is None else total + tokens * band.input


def _output_sum(usage: Usage, band: RateBand) -> float | None:
    """Σ tokens × rate over the output kinds, in millionths of a USD; 0 for models that only read (embeddings)."""
    tokens = usage.output_tokens
    if tokens is None:
        return 0.0 if band.output is None else None
    total = 0.0
    reasoning = usage.reasoning_tokens
    if reasoning and usage.reasoning_apart:
        tokens += reasoning
    if reasoning and band.reasoning is not None:
        if reasoning < 0:
            return None
        tokens -= reasoning
        total = reasoning * band.reasoning
    audio = usage.output_audio_tokens
    if audio and band.output_audio is not None:
        if audio < 0 or (reasoning and band.reasoning is not None):
            return None
        tokens -= audio
        total += audio * band.output_audio
    if tokens <= 0:
        return total if tokens == 0 else None
    return None if band.output is None else total + tokens * band.output


def provider_cost(usage: Mapping[str, object] | None, headers: Mapping[str, str] | None = None) -> float | None:
    """The cost in USD that the provider itself reports, or `None`; never raises for any content.

    Reads `usage.cost` (OpenRouter: a number, to which the upstream's charge is added when the caller's own provider key
    paid it; others: a mapping with a total), xAI's `cost_in_usd_ticks`, DeepInfra's `estimated_cost`, and LiteLLM's
    response header.
    """
    if usage:
        cost = usage.get("cost")
        if cost is not None and (amount := _reported_cost(cost, usage)) is not None:
            return amount
        ticks = _amount(usage.get("cost_in_usd_ticks"), most=_MOST_PLAUSIBLE_USD * _TICKS_PER_USD)
        if ticks is not None:
            return ticks / _TICKS_PER_USD
        estimate = _amount(usage.get("estimated_cost"))
        if estimate is not None:
            return estimate
    if headers is not None:
        text = headers.get(_LITELLM_HEADER)
        if isinstance(text, str) and len(text) <= 64:
            try:
                return _amount(float(text))
            except ValueError:
                return None
    return None


def _reported_cost(cost: object, usage: Mapping[str, object]) -> float | None:
    if isinstance(cost, Mapping):
        total = _amount(cost.get("total_cost"))
        return total if total is not None else _amount(cost.get("total"))
    amount = _amount(cost)
    if amount is not None and usage.get("is_byok") is True:
        details = usage.get("cost_details")
        upstream = _amount(details.get("upstream_inference_cost")) if isinstance(details, Mapping) else None
        # Without the upstream's part the figure is OpenRouter's fee alone, not what the call cost.
        return None if upstream is None else amount + upstream
    return amount


def _amount(value: object, *, most: float = _MOST_PLAUSIBLE_USD) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def _identity(bands: tuple[RateBand, ...], request_usd: float) -> str:
    numbers = [
        [band.above_input_tokens, *(None if (rate := getattr(band, kind)) is None else float(rate) for kind in KINDS)]
        for band in bands
    ]
    import hashlib  # loads OpenSSL: not for an application that only imports us

    return hashlib.blake2b(repr((numbers, float(request_usd))).encode(), digest_size=4).hexdigest()
