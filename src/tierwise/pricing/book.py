"""The price book in force: overrides first, then the catalogue, resolved once a day per provider, model and tier."""

from __future__ import annotations

import logging
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from typing import Any, Final

from tierwise.core.cost import KINDS, RateBand, Rates
from tierwise.core.errors import ConfigError

_log = logging.getLogger("tierwise")
_DAY_S: Final = 86_400.0
_FORK_WAIT_S: Final = 5.0
_MAX_KNOWN: Final = 4_096
_MAX_NAME: Final = 256
_DATE_SUFFIX: Final = re.compile(r"[-@](?:20\d{2}-\d{2}-\d{2}|20\d{6})$")


def override_rates(prices: Mapping[str, Mapping[str, float]]) -> dict[str, Rates]:
    """`prices:` of a policy as rates, by model name or `provider/model`.

    Names are lower-cased, as they match in any case. Raises `ConfigError` for an unknown kind of token or a negative
    price.
    """
    made: dict[str, Rates] = {}
    for model, kinds in prices.items():
        wrong = [kind for kind in kinds if kind not in KINDS]
        if wrong:
            raise ConfigError(
                f"prices: {model}: unknown kind {wrong[0]!r}; use {', '.join(KINDS)} (USD per million tokens)"
            )
        if any(not 0 <= value < math.inf for value in kinds.values()):
            raise ConfigError(f"prices: {model}: a price must be a number of USD, 0 or more")
        band = RateBand(**{kind: float(value) for kind, value in kinds.items()})  # type: ignore[arg-type]
        made[model.lower()] = Rates(source="override", bands=(band,))
    return made


def _import_http_client() -> None:
    """Import what the catalogue's package imports, on this thread.

    openai 2 looks at `sys.modules["httpx2"]` in every request: half imported by a thread of ours, it would fail the
    application's call. openai 3 has it loaded already.
    """
    if "httpx2" not in sys.modules:
        with suppress(ImportError):
            import_module("httpx2")


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
        self._known_until = 0.0
        self._loaded = threading.Event()
        self._catalogue: Any = None
        self.missing: dict[tuple[str, str], int] = {}
        """(provider, model) without a known price, and how often it was asked for afresh."""
        if background:
            _import_http_client()
            threading.Thread(target=self._load, name="tierwise-prices", daemon=True).start()
            if hasattr(os, "register_at_fork"):
                # A child forked amid the import would have half a module and nobody to finish it.
                os.register_at_fork(before=partial(self._loaded.wait, _FORK_WAIT_S))
        else:
            self._load()

    def _load(self) -> None:
        try:
            from tierwise.pricing import catalogue

            catalogue.load()
            self._catalogue = catalogue
            self._known_until = 0.0
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
        if self._clock() >= self._known_until:  # prices change with the date, some with the time of day
            self._known.clear()
            self._known_until = self._next_look_up()
        try:
            return self._known[key]
        except KeyError:
            pass
        stated = self._override(provider, model) or self._override(provider, response_model)
        if self._catalogue is None:
            return stated  # still loading: not remembered
        if stated is None:
            found = self._look_up(provider, model, service_tier, response_model)
            if found is None:
                self._tell_missing(provider, response_model or model)
        elif stated.bands[0].input is None or stated.bands[0].output is None:
            found = _laid_over(stated, self._look_up(provider, model, service_tier, response_model))
        else:
            found = stated
        if len(self._known) >= _MAX_KNOWN:
            self._known.clear()
        self._known[key] = found
        return found

    def rates_at(
        self,
        *,
        provider: str,
        model: str,
        service_tier: str | None,
        at_s: float,
        response_model: str | None = None,
    ) -> Rates | None:
        """The catalogue's rates at a time (Unix seconds), overrides as they are now; for recomputing history."""
        stated = self._override(provider, model) or self._override(provider, response_model)
        if stated is not None and stated.bands[0].input is not None and stated.bands[0].output is not None:
            return stated
        listed = None
        if self._catalogue is not None:
            listed = self._look_up(provider, model, service_tier, response_model, at_s=at_s)
        return listed if stated is None else _laid_over(stated, listed)

    def _next_look_up(self) -> float:
        now = self._clock()
        if self._catalogue is None:
            return now + _DAY_S
        changes: datetime = self._catalogue.next_change(datetime.fromtimestamp(now, UTC))
        return changes.timestamp()

    def _override(self, provider: str, model: str | None) -> Rates | None:
        """What `prices:` says of a model: by its name, the last part of it, or either without a date at the end."""
        if model is None or not self._overrides:
            return None
        for name in _names(model.lower()):
            found = self._overrides.get(f"{provider}/{name}") or self._overrides.get(name)
            if found is not None:
                return found
        return None

    def _look_up(
        self,
        provider: str,
        model: str,
        service_tier: str | None,
        response_model: str | None,
        *,
        at_s: float | None = None,
    ) -> Rates | None:
        now = datetime.fromtimestamp(self._clock() if at_s is None else at_s, UTC)
        for name in (response_model, model):
            if name:
                found: Rates | None = self._catalogue.find(provider, name, service_tier, now)
                if found is not None:
                    return found
        return None

    def _tell_missing(self, provider: str, model: str) -> None:
        key = (provider[:_MAX_NAME], model[:_MAX_NAME])
        known = key in self.missing
        if not known and len(self.missing) >= _MAX_KNOWN:
            return
        self.missing[key] = self.missing.get(key, 0) + 1
        if not known and model:
            _log.warning(
                "tierwise: no price is known for model %r of %r; its calls have no cost. "
                "State one under prices: in tierwise.yaml",
                model[:100],
                provider[:100],
            )


def _names(model: str) -> Iterator[str]:
    last = model.rpartition("/")[2]
    yield model
    yield last
    for name in (model, last):
        undated = _DATE_SUFFIX.sub("", name)
        if undated != name:
            yield undated


def _laid_over(stated: Rates, listed: Rates | None) -> Rates:
    """An override that leaves out input or output, over the catalogue's rates for the rest."""
    if listed is None:
        return stated
    kinds = {kind: rate for kind in KINDS if (rate := getattr(stated.bands[0], kind)) is not None}
    return Rates(
        source="override",
        bands=tuple(replace(band, **kinds) for band in listed.bands),
        request_usd=listed.request_usd,
        as_of=listed.as_of,
    )


def load_price_book(
    overrides: Mapping[str, Mapping[str, float]] | None = None, *, background: bool = True
) -> CatalogueBook:
    """A price book with a policy's overrides; with `background` the catalogue loads beside the caller.

    Raises `ConfigError` for wrong overrides.
    """
    return CatalogueBook(overrides or {}, background=background)
