"""What an instrumented client carries: wiring, endpoint, and what is cached between its calls."""

from __future__ import annotations

import json
import marshal
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, Final, cast

from tierwise.core.call import UNASSIGNED
from tierwise.core.checks import Check
from tierwise.core.cost import Rates
from tierwise.core.epoch import epoch_of
from tierwise.core.outcome import Expectation
from tierwise.core.policy import ModelSpec, TaskPolicy
from tierwise.core.ports import CompileSchema, IsJson, ParseJson, PriceBook, Recorder, Router, SchemaCheck
from tierwise.core.records import dataclass
from tierwise.instrument.dialects import dialect_for
from tierwise.instrument.dialects.base import Endpoint
from tierwise.instrument.drawing import AUTO, QuickRun, routed_run
from tierwise.instrument.entering import current
from tierwise.instrument.guard import listen
from tierwise.instrument.ladder import RoutedRun
from tierwise.instrument.lanes import Lane, Lanes
from tierwise.instrument.limits import OutputLimits
from tierwise.instrument.observation import RAW_RESPONSE_HEADER, Observation
from tierwise.instrument.providers import STREAM_USAGE, provider_of
from tierwise.instrument.shadow import Shadows

_MAX_CACHED: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """What the composition root hands to the hook: read once, when a client is instrumented."""

    recorder: Recorder
    prices: PriceBook
    parse_json: ParseJson
    is_json: IsJson
    compile_schema: CompileSchema
    policy_for: Callable[[str], TaskPolicy | None]
    checks_for: Callable[[str], tuple[Check, ...]]
    candidate_params: Mapping[str, Mapping[str, object]]
    stream_usage: bool | None = None
    wait_for_prices: Callable[[], object] | None = None
    router: Router | None = None
    """Where the runs of `model="auto"` go; `None`: that is a model's name as any other."""
    models: Mapping[str, ModelSpec] = field(default_factory=dict)
    """Named candidates of the policy."""
    upstreams: Mapping[str, Any] = field(default_factory=dict)
    """Clients that candidates may name."""
    default_model: str | None = None
    """The candidate that the policy names for the case that nothing else says more."""
    first_candidates: tuple[str, ...] = ()
    """Candidates of the policy in order, those of `"*"` first."""
    limits: OutputLimits = field(default_factory=OutputLimits)
    shadows: Shadows = field(default_factory=Shadows)


class SchemaCache:
    """Compiled schemas by value; a schema that does not compile is remembered as no check, and reported once."""

    def __init__(self, compile_schema: CompileSchema, report: Callable[[str, BaseException], None]) -> None:
        self._compile, self._report = compile_schema, report
        self._known: dict[bytes, SchemaCheck | None] = {}

    def check(self, schema: Mapping[str, object] | None) -> SchemaCheck | None:
        """The check of a schema, or `None` without a (usable) schema."""
        if schema is None:
            return None
        try:
            # Version 2 writes no references, so equal values give equal bytes.
            key = marshal.dumps(cast(Any, schema), 2)
        except ValueError:
            key = json.dumps(schema, default=str).encode()
        if key in self._known:
            return self._known[key]
        found: SchemaCheck | None
        try:
            found = self._compile(schema)
        except Exception as error:  # noqa: BLE001 - somebody's schema, not our fault: judged as JSON without one
            self._report("schema", error)
            found = None
        if len(self._known) < _MAX_CACHED:
            self._known[key] = found
        return found


class Hook:
    """What an instrumented client carries: its endpoint, its default task and the wiring."""

    __slots__ = (
        "_base_url",
        "_epochs",
        "_last_epoch",
        "_last_epochs",
        "_limits",
        "default_model",
        "endpoint",
        "first_party",
        "lanes",
        "original_class",
        "own_lanes",
        "recorder",
        "schemas",
        "task",
        "usage_wanted",
        "wiring",
    )

    def __init__(self, *, wiring: Wiring, base_url: Any, task: str | None, original_class: type) -> None:
        self.wiring = wiring
        self.recorder = wiring.recorder
        listen(self.recorder)
        self.task = task or UNASSIGNED
        self.original_class = original_class
        self.lanes = Lanes()
        self.own_lanes: dict[str, Lane] = {}
        self.default_model = _default_model(wiring)
        """The request model that stands for `auto` after a fault of ours: one of this client's own."""
        self._set_endpoint(base_url)
        self.schemas = SchemaCache(wiring.compile_schema, wiring.recorder.internal_error)
        self._epochs: dict[tuple[Any, ...], str] = {}
        self._last_epoch = ""
        self._last_epochs: dict[tuple[str, str | None], str] = {}
        self._limits: dict[tuple[int | None, bool], Expectation] = {}

    def _set_endpoint(self, base_url: Any) -> None:
        self._base_url = base_url
        self.endpoint = endpoint_of(base_url)
        self.first_party = self.endpoint.provider != self.endpoint.address
        """A known provider's own host: no gateway that would state a cost in a header."""
        wanted = self.wiring.stream_usage
        self.usage_wanted = wanted if wanted is not None else self.endpoint.provider in STREAM_USAGE

    def for_copy(self, base_url: Any) -> Hook:
        """The hook of a copied client, whose base URL may differ."""
        made = Hook(wiring=self.wiring, base_url=base_url, task=self.task, original_class=self.original_class)
        made.lanes = self.lanes
        return made

    def begin(self, options: Any, stream: bool, client: Any) -> Observation | RoutedRun | QuickRun | None:
        """Start observing a request of `client`, or a run of several; `None` for requests that are not inference.

        Raises `RouteError` for `model="auto"` where routing is set up and nothing is known of the task.
        """
        outer = current.get()
        if outer is not None and outer.covers and not outer.ended:
            return None  # a client of another make is at work inside its own call
        dialect = dialect_for(options.method, options.url)
        body = options.json_data if dialect is not None else None
        if dialect is None or not (type(body) is dict or isinstance(body, Mapping)):
            return None
        base_url = client.base_url
        if base_url is not self._base_url and base_url != self._base_url:
            self._set_endpoint(base_url)  # it may be set on a client at any time
        extra = options.extra_json
        if extra is not None and isinstance(extra, Mapping):
            body = {**body, **extra}
        if body.get("model") == AUTO and dialect.expects_answer:
            router = self.wiring.router
            if router is not None and router.configured:
                return routed_run(self, dialect, options, body, bool(stream), raw_mode_of(options))
        return Observation(self, dialect, body, bool(stream), raw_mode_of(options))

    def plain_expectation(self, max_tokens: int | None, *, expects_json: bool) -> Expectation:
        """An expectation of nothing but a token limit and perhaps JSON, cached."""
        key = (max_tokens, expects_json)
        found = self._limits.get(key)
        if found is None:
            found = Expectation(max_tokens=max_tokens, expects_json=expects_json)
            if len(self._limits) < _MAX_CACHED:
                self._limits[key] = found
        return found

    def epoch(self, candidate: str, model: str | None, rates: Rates | None, prompt_version: str | None) -> str:
        """The candidate's epoch, cached by what it is made from.

        A call that failed names no response model: it belongs to the epoch that the candidate was last seen in.
        """
        if model is None:
            last = self._last_epochs.get((candidate, prompt_version))
            if last is not None:
                return last
        key = (candidate, model, None if rates is None else rates.identity, prompt_version)
        found = self._epochs.get(key)
        if found is None:
            made = epoch_of(
                response_model=model,
                rates_identity=key[2],
                params=self.wiring.candidate_params.get(candidate),
                prompt_version=prompt_version,
            )
            # An object of its own for each key: candidates that are the same thing have equal epochs.
            found = made.encode().decode()
            if len(self._epochs) < _MAX_CACHED:
                self._epochs[key] = found
        if model is not None and found is not self._last_epoch:
            self._last_epoch = found
            place = (candidate, prompt_version)
            if place in self._last_epochs or len(self._last_epochs) < _MAX_CACHED:
                self._last_epochs[place] = found
        return found


def _default_model(wiring: Wiring) -> str | None:
    names = (wiring.default_model, *wiring.first_candidates)
    for name in names:
        if name is None:
            continue
        spec = wiring.models.get(name)
        if spec is None:
            return name
        if spec.upstream is None and spec.base_url is None:
            return spec.model
    return None


def raw_mode_of(options: Any) -> str | None:
    """How the caller asked for the raw response of a Stainless client: `true`, `stream`, or not at all."""
    headers = options.headers
    return headers.get(RAW_RESPONSE_HEADER) if isinstance(headers, dict) else None


def endpoint_of(base_url: Any) -> Endpoint:
    """Provider, address and port of a client's base URL (an httpx URL or a string)."""
    if isinstance(base_url, str) or not hasattr(base_url, "host"):
        from urllib.parse import urlsplit

        parts = urlsplit(str(base_url))
        host, port, scheme = parts.hostname, parts.port, parts.scheme
    else:
        host, port, scheme = base_url.host, base_url.port, base_url.scheme
    return Endpoint(
        provider=provider_of(host), address=host or None, port=port or {"http": 80, "https": 443}.get(scheme)
    )
