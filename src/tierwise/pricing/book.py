"""The price book in force: overrides first, then the catalogue, resolved once a day per provider, model and tier."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from tierwise.core.cost import KINDS, RateBand, Rates
from tierwise.core.errors import ConfigError

_log = logging.getLogger("tierwise")
_DAY_S: Final = 86_400.0
_MAX_KNOWN: Final = 4_096


def override_rates(prices: Mapping[str, Mapping[str, float]]) -> dict[str, Rates]:
    """`prices:` of a policy as rates, by model name or `provider/model`.

    Raises `ConfigError` for an unknown kind of token or a negative price.
    """
    made: dict[str, Rates] = {}
    for model, kinds in prices.items():
        wrong = [kind for kind in kinds if kind not in KINDS]
        if wrong:
            raise ConfigError(
                f"prices: {model}: unknown kind {wrong[0]!r}; use {', '.join(KINDS)} (USD per million tokens)"
            )
        if any(not value >= 0 for value in kinds.values()):
            raise ConfigError(f"prices: {model}: a price must be a number of USD, 0 or more")
        band = RateBand(**{kind: float(value) for kind, value in kinds.items()})  # type: ignore[arg-type]
        made[model] = Rates(source="override", bands=(band,))
    return made


class CatalogueBook:
    """Implements `core.ports.PriceBook`: overrides of a policy over the genai-prices catalogue.

    The catalogue loads on a background thread; until then `ready` is false and only overrides are known.
    """

    def __init__(
        self, prices: Mapping[str, Mapping[str, float]], *, background: bool, clock: Callable[[], float] = time.time
    ) -> None:
        self._overrides = override_rates(prices)
        self._clock = clock
        self._known: dict[tuple[str, str, str | None, str | None], Rates | None] = {}
        self._known_until = clock() + _DAY_S
        self._loaded = threading.Event()
        self._catalogue: Any = None
        self.missing: dict[tuple[str, str], int] = {}
        """(provider, model) without a known price, and how often it was asked for afresh."""
        if background:
            threading.Thread(target=self._load, name="tierwise-prices", daemon=True).start()
        else:
            self._load()

    def _load(self) -> None:
        try:
            from tierwise.pricing import catalogue

            catalogue.load()
            self._catalogue = catalogue
        except Exception as error:  # noqa: BLE001 - calls go on unpriced, and it is said
            _log.warning("tierwise: the price catalogue cannot be read (%s); calls are recorded without cost", error)
        finally:
            self._loaded.set()

    @property
    def ready(self) -> bool:
        """False while the catalogue is loading."""
        return self._loaded.is_set()

    def wait(self, timeout_s: float = 10.0) -> bool:
        """Wait for the catalogue; in a forked child, where the loading thread is gone, load it here."""
        if not self._loaded.is_set() and not any(thread.name == "tierwise-prices" for thread in threading.enumerate()):
            self._load()
        return self._loaded.wait(timeout_s)

    def rates(
        self, *, provider: str, model: str, service_tier: str | None, response_model: str | None = None
    ) -> Rates | None:
        """The rates in force now, USD per million tokens, or `None` for a model without a known price."""
        key = (provider, model, service_tier, response_model)
        if self._clock() > self._known_until:  # prices may change with the date
            self._known.clear()
            self._known_until = self._clock() + _DAY_S
        try:
            return self._known[key]
        except KeyError:
            pass
        found = self._override(provider, model) or self._override(provider, response_model)
        if found is None and self._catalogue is None:
            return None  # still loading: not remembered
        if found is None:
            found = self._look_up(provider, model, service_tier, response_model)
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        self._known[key] = found
        return found

    def _override(self, provider: str, model: str | None) -> Rates | None:
        if model is None:
            return None
        return self._overrides.get(f"{provider}/{model}") or self._overrides.get(model)

    def _look_up(self, provider: str, model: str, service_tier: str | None, response_model: str | None) -> Rates | None:
        now = datetime.fromtimestamp(self._clock(), UTC)
        for name in (response_model, model):
            if name:
                found: Rates | None = self._catalogue.find(provider, name, service_tier, now)
                if found is not None:
                    return found
        self._tell_missing(provider, response_model or model)
        return None

    def _tell_missing(self, provider: str, model: str) -> None:
        known = (provider, model) in self.missing
        if known or len(self.missing) < _MAX_KNOWN:
            self.missing[provider, model] = self.missing.get((provider, model), 0) + 1
        if not known and model:
            _log.warning(
                "tierwise: no price is known for model %r of %s; its calls have no cost. State one under prices: in tierwise.yaml",
                model[:100],
                provider,
            )


def load_price_book(
    overrides: Mapping[str, Mapping[str, float]] | None = None, *, background: bool = True
) -> CatalogueBook:
    """A price book with a policy's overrides; with `background` the catalogue loads beside the caller.

    Raises `ConfigError` for wrong overrides.
    """
    return CatalogueBook(overrides or {}, background=background)
