"""The composition root: builds recorder, store, prices and worker from the settings and hands them to the hook."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from tierwise.config.settings import Settings, read_settings
from tierwise.core.errors import StoreError
from tierwise.core.policy import Policy
from tierwise.core.records import dataclass
from tierwise.instrument import everywhere, stainless
from tierwise.instrument.checks import checks_for
from tierwise.instrument.context import bench_round
from tierwise.instrument.hook import Wiring
from tierwise.instrument.lanes import check_upstreams
from tierwise.instrument.limits import OutputLimits
from tierwise.instrument.parsing import compile_schema, is_json, parse_json
from tierwise.instrument.shadow import Shadows
from tierwise.routing import Router, RouteWatcher

if TYPE_CHECKING:
    from tierwise.evidence.sqlite import SqliteStore
    from tierwise.pricing.book import CatalogueBook
    from tierwise.telemetry import Telemetry
    from tierwise.telemetry.recorder import TelemetryRecorder

__all__ = [
    "Runtime",
    "bench_round",
    "force_flush",
    "instrument_clients",
    "open_store",
    "recorder_for",
    "shutdown",
    "uninstrument_clients",
]

_log = logging.getLogger("tierwise")
_lock = threading.Lock()
_runtimes: dict[tuple[object, ...], Runtime] = {}
_books: dict[str, CatalogueBook] = {}
_watchers: dict[Path, RouteWatcher] = {}
_shadows: Final = Shadows()


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What the instrumented clients of one store and one set of providers share."""

    telemetry: Telemetry
    store: SqliteStore | None
    limits: OutputLimits
    keep: tuple[object, ...]
    """The providers whose identity is part of this runtime's key, kept so that no other object takes their place."""

    def flush(self, timeout_s: float) -> bool:
        """Write every finished call to the store and the exporters."""
        return self.telemetry.force_flush(timeout_s)

    def close(self) -> None:
        """Flush, stop the worker, close the store."""
        self.telemetry.shutdown()


def instrument_clients(
    client: Any,
    *,
    task: str | None,
    config: str | Path | Policy | None,
    store: str | Path | SqliteStore | None,
    tracer_provider: Any,
    meter_provider: Any,
    logger_provider: Any,
    stream_usage: bool | None,
    upstreams: Mapping[str, Any] | None = None,
) -> Any:
    """Instrument one client, or without one every client made later; see `tierwise.instrument`.

    Returns the client, or what takes the place of a function.

    Raises `ConfigError` or `StoreError` here, never at a call.
    """
    given = store if isinstance(store, (str, Path)) else None
    settings = read_settings(config=None if isinstance(config, Policy) else config, store=given)
    policy = config if isinstance(config, Policy) else _policy(settings)
    runtime = _runtime(settings, store, tracer_provider, meter_provider, logger_provider)
    book = _book(policy)
    others = dict(upstreams or {})
    check_upstreams(client if stainless.supports(client) else None, others)
    wiring = Wiring(
        recorder=runtime.telemetry.recorder,
        prices=book,
        parse_json=parse_json,
        is_json=is_json,
        compile_schema=compile_schema,
        policy_for=policy.for_task,
        checks_for=checks_for,
        candidate_params={name: spec.params for name, spec in policy.models.items()},
        stream_usage=stream_usage,
        wait_for_prices=book.wait,
        router=_router(policy, settings.routes_path),
        models=policy.models,
        upstreams=others,
        default_model=policy.default_model,
        first_candidates=policy.first_candidates,
        limits=runtime.limits,
        shadows=_shadows,
    )

    def observe(made: Any) -> None:
        stainless.instrument(made, wiring, task)

    if client is None:
        everywhere.observe_new_clients(observe)
    elif stainless.supports(client):
        observe(client)
    elif not (isinstance(client, ModuleType) and everywhere.observe_module_client(client, observe)):
        from tierwise.instrument import duck

        return duck.instrument(client, wiring, task)
    return client


def uninstrument_clients(client: Any) -> Any:
    """Undo `instrument_clients` for the same argument; harmless when it was not instrumented. Returns what is left."""
    if client is None:
        everywhere.forget_new_clients()
        return None
    found = client
    if isinstance(client, ModuleType) and hasattr(client, "_ModuleClient"):
        found = everywhere.forget_module_client(client)
    if found is None or stainless.uninstrument(found) or stainless.supports(found):
        return client
    from tierwise.instrument import duck
    from tierwise.instrument.duckcalls import Observed

    duck.uninstrument(client)
    return client.__wrapped__ if isinstance(client, Observed) else client


def _router(policy: Policy, path: Path) -> Router:
    """The router of a policy and the route file."""
    with _lock:
        watcher = _watchers.get(path)
        if watcher is None:
            watcher = _watchers[path] = RouteWatcher(path)
            watcher.current()  # now: no call waits for a first look, or goes without
    return Router(policy, watcher.current)


def _policy(settings: Settings) -> Policy:
    if settings.config_path is None:
        return Policy()
    from tierwise.config.loader import load_policy

    return load_policy(settings.config_path)


def _book(policy: Policy) -> CatalogueBook:
    from tierwise.pricing import load_price_book

    key = repr(sorted((model, sorted(kinds.items())) for model, kinds in policy.prices.items()))
    with _lock:
        book = _books.get(key)
        if book is None:
            book = _books[key] = load_price_book(policy.prices)
    return book


def _runtime(
    settings: Settings,
    store: str | Path | SqliteStore | None,
    tracer_provider: Any,
    meter_provider: Any,
    logger_provider: Any,
) -> Runtime:
    opened = None if store is None or isinstance(store, (str, Path)) else store
    place = id(opened) if opened is not None else settings.store_path
    key: tuple[object, ...] = (place, id(tracer_provider), id(meter_provider), id(logger_provider))
    with _lock:
        runtime = _runtimes.get(key)
        if runtime is not None and runtime.store is None and store is not None and place is not None:
            key = (*key, "named")  # what goes without a store at its default place does not do once that is asked for
            runtime = _runtimes.get(key)
        if runtime is None:
            used = opened if opened is not None else _open_for_writing(settings, named=store is not None)
            runtime = _runtimes[key] = _build(used, tracer_provider, meter_provider, logger_provider)
    return runtime


def _open_for_writing(settings: Settings, *, named: bool) -> SqliteStore | None:
    """The store to write to. One that was named must work; the default place may be read-only, then there is none."""
    if settings.store_path is None:
        return None
    from tierwise.evidence.sqlite import SqliteStore

    try:
        return SqliteStore.open(settings.store_path)
    except StoreError as error:
        if named or os.environ.get("TIERWISE_STORE"):
            raise
        _log.warning("tierwise: recording without a store: %s; set TIERWISE_STORE to a writable path or to off", error)
        return None


def _build(store: SqliteStore | None, tracer_provider: Any, meter_provider: Any, logger_provider: Any) -> Runtime:
    from tierwise.core.about import VERSION
    from tierwise.telemetry import open_telemetry

    path = getattr(store, "path", None)  # whatever takes calls may stand for a store
    telemetry = open_telemetry(
        sinks=() if store is None else (store,),
        tracer_provider=tracer_provider,
        meter_provider=meter_provider,
        logger_provider=logger_provider,
        version=VERSION,
    )
    return Runtime(
        telemetry=telemetry,
        store=store,
        limits=OutputLimits(partial(_earlier_answers, path) if isinstance(path, Path) else None),
        keep=(tracer_provider, meter_provider, logger_provider),
    )


def _earlier_answers(path: Path) -> Mapping[str, Sequence[int]]:
    """Output tokens of what a store knows, by a connection of its own: nobody waits for it."""
    from tierwise.evidence.sqlite import SqliteStore

    with SqliteStore.open(path, read_only=True) as store:
        return store.output_tokens()


def force_flush(timeout_s: float) -> bool:
    """Flush every runtime of the process; false when that took longer than `timeout_s` seconds in all."""
    end = time.monotonic() + timeout_s
    done = [runtime.flush(max(0.0, end - time.monotonic())) for runtime in list(_runtimes.values())]
    return all(done)


def shutdown() -> None:
    """Close every runtime of the process."""
    with _lock:
        runtimes = list(_runtimes.values())
        _runtimes.clear()
    for runtime in runtimes:
        runtime.close()


def recorder_for(store: str | Path | SqliteStore | None) -> TelemetryRecorder:
    """Who records a verdict: the runtime of a store, of the default store, else the one made last; one is made if need be.

    Raises `ConfigError` or `StoreError` where a new one cannot be made.
    """
    settings = read_settings(store=store if isinstance(store, (str, Path)) else None)
    place = id(store) if store is not None and not isinstance(store, (str, Path)) else settings.store_path
    with _lock:
        found = [runtime for key, runtime in _runtimes.items() if key[0] == place]
        if not found and store is None:
            found = list(_runtimes.values())
    runtime = found[-1] if found else _runtime(settings, store, None, None, None)
    return runtime.telemetry.recorder


def open_store(path: str | Path | None) -> SqliteStore:
    """The store opened for reading. Raises `StoreError` when it is off or not there."""
    settings = read_settings(store=path)
    if settings.store_path is None:
        raise StoreError("the store is off (TIERWISE_STORE=off); give a path or set TIERWISE_STORE to one")
    from tierwise.evidence.sqlite import SqliteStore

    force_flush(5.0)
    return SqliteStore.open(settings.store_path, read_only=True)
