"""How the simulated models behave: latency, output size, code fences, hidden reasoning, passing faults. All of it drawn
from a hash of seed, model, prompt and count, so that nothing depends on the order in which requests arrive."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Final

LATENCY_SCALE: Final = 24
"""Published seconds divided by this are the simulated ones: a limit of 12 s becomes 0.5 s."""
CHARS_PER_TOKEN: Final = 4
FAULT_RATE: Final = 0.02
"""Share of requests answered with 429 or 503; never two in a row for one model and prompt."""
_CONCENTRATION: Final = 3.0
_QUANTILES: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One simulated model. Latencies are seconds at the published scale, sizes are characters of visible text."""

    name: str
    owner: str
    latency_mean_s: float
    latency_min_s: float
    latency_max_s: float
    chars: Mapping[str, int] = field(hash=False)
    """Mean size of the answer by kind of prompt; the five tasks together have the published mean."""
    fences_json: bool
    reasoning_tokens: tuple[int, int] = (0, 0)
    """Fewest and most hidden tokens before the first visible one; they count against `max_tokens`."""

    def latency_s(self, share: float) -> float:
        """The latency below which this share of the calls stays, seconds at the published scale."""
        table = _latencies(self)
        return table[min(int(share * len(table)), len(table) - 1)]


@functools.cache
def _latencies(profile: Profile) -> tuple[float, ...]:
    """Quantiles of a beta distribution over the published range, bent a little so that their mean is the published one."""
    low, high = profile.latency_min_s, profile.latency_max_s
    mean = (profile.latency_mean_s - low) / (high - low)
    draw = Random(profile.name)  # noqa: S311
    shares = sorted(draw.betavariate(_CONCENTRATION * mean, _CONCENTRATION * (1 - mean)) for _ in range(_QUANTILES))
    # A power keeps 0 and 1 in place; halving steps find the one with the right mean.
    power, step = 1.0, 0.5
    while step > 1e-6:
        too_high = sum(share**power for share in shares) / len(shares) > mean
        power += step if too_high else -step
        step /= 2
    return tuple(low + (high - low) * share**power for share in shares)


PROFILES: Final[tuple[Profile, ...]] = (
    Profile(
        name="gemini-3.5-flash",
        owner="google",
        latency_mean_s=5.65,
        latency_min_s=3.14,
        latency_max_s=9.48,
        chars={"summary": 620, "reasoning": 560, "bug-fix": 850, "token-cost": 480, "strict-json": 300},
        fences_json=False,
        reasoning_tokens=(66, 104),
    ),
    Profile(
        name="claude-haiku-4-5",
        owner="anthropic",
        latency_mean_s=9.13,
        latency_min_s=2.95,
        latency_max_s=19.76,
        chars={"summary": 880, "reasoning": 860, "bug-fix": 1250, "token-cost": 720, "strict-json": 380},
        fences_json=True,
    ),
    Profile(
        name="claude-sonnet-4-5",
        owner="anthropic",
        latency_mean_s=10.47,
        latency_min_s=3.52,
        latency_max_s=23.31,
        chars={"summary": 700, "reasoning": 660, "bug-fix": 990, "token-cost": 560, "strict-json": 335},
        fences_json=True,
    ),
)
"""The three models as published: mean latency 5.65 / 9.13 / 10.47 s, mean output 562 / 818 / 649 characters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A passing fault instead of an answer: HTTP status and how long to wait, seconds at the published scale."""

    status: int
    retry_after_s: float


def draw_for(seed: int, model: str, prompt: str, count: int, purpose: str) -> Random:
    """A generator of its own for one purpose of one request."""
    text = "\x1f".join((str(seed), model, prompt, str(count), purpose))
    return Random(int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()))  # noqa: S311


def latency_for(seed: int, profile: Profile, prompt: str, count: int) -> float:
    """The latency of the `count`-th request, seconds at the published scale.

    Requests come in pairs that mirror each other, so that few of them are enough for a mean near the published one.
    """
    share = draw_for(seed, profile.name, prompt, count // 2, "latency").random()
    return profile.latency_s(share if count % 2 == 0 else 1 - share)


def fault_for(seed: int, model: str, prompt: str, count: int) -> Fault | None:
    """The fault of the `count`-th request of this model and prompt, or `None`; the request after a fault succeeds."""

    def drawn(number: int) -> Random | None:
        draw = draw_for(seed, model, prompt, number, "fault")
        return draw if draw.random() < FAULT_RATE else None

    draw = drawn(count)
    if draw is None or (count > 0 and fault_for(seed, model, prompt, count - 1) is not None):
        return None
    return Fault(status=draw.choice((429, 503)), retry_after_s=1.0)


def tokens_of(text: str) -> int:
    """Tokens of a text, as the simulation counts them."""
    return -(-len(text) // CHARS_PER_TOKEN)
