"""One call of a client of any make: what its arguments say, where it goes, and how its result is taken in."""

from __future__ import annotations

import copy
import functools
import inspect
import sys
import weakref
from collections.abc import Coroutine, Mapping
from typing import Any, Final

import wrapt

from tierwise.core.outcome import Judgement, outcome_of_error
from tierwise.instrument.dialects.base import Dialect, Endpoint, Reading
from tierwise.instrument.entering import current, enter, leave
from tierwise.instrument.guard import quietly, tell
from tierwise.instrument.hook import Hook, Wiring
from tierwise.instrument.litellm import default_base, provider_named, readable, stated_cost
from tierwise.instrument.marks import put, put_beside
from tierwise.instrument.observation import Observation
from tierwise.instrument.providers import STREAM_USAGE
from tierwise.instrument.proxies import observed_awaitable, observed_coroutine, observed_stream, taken
from tierwise.instrument.streams import attach

_MAX_HOOKS: Final = 256
_WHOLE: Final = (str, bytes, Mapping)
_PACKAGES: Final = {"huggingface_hub": "huggingface", "mistralai": "mistral_ai", "__main__": "_OTHER"}
_STARRED: Final[dict[str, tuple[str, ...]]] = {
    "acompletion": ("model", "messages"),
    "acompletion_with_retries": ("model", "messages"),
    "aembedding": ("model", "input"),
    "atext_completion": ("prompt", "model"),
    "completion_with_retries": ("model", "messages"),
}
"""The first arguments of LiteLLM's functions that are declared as `*args`."""
_schemas: weakref.WeakKeyDictionary[type, Mapping[str, Any]] = weakref.WeakKeyDictionary()


class CoveringObservation(Observation):
    """A call that another instrumented client may be used for inside: that one is a part of it, not a call of its own."""

    __slots__ = ()
    covers = True

    def _judge(self, reading: Reading, error: BaseException | None, *, streamed: bool, abandoned: bool) -> Judgement:
        if error is not None and (streamed or self.parsed is None) and getattr(error, "status_code", None) is None:
            return Judgement(outcome=outcome_of_error(status_of(error), not isinstance(error, Exception)))
        return super()._judge(reading, error, streamed=streamed, abandoned=abandoned)


def status_of(error: BaseException) -> int | None:
    """The HTTP status that an exception carries or its response does, wherever its library puts it."""
    response = getattr(error, "response", None)
    for holder, name in (
        (error, "status_code"),
        (response, "status_code"),
        (error, "http_status"),
        (response, "status"),
    ):
        found = getattr(holder, name, None)
        if isinstance(found, int) and not isinstance(found, bool):
            return found
    return None


class Source:
    """Whose functions are observed: the wiring, the default task, and where calls without a base URL go."""

    __slots__ = ("_base_url", "_hooks", "_is_litellm", "_model", "_package", "task", "wiring")

    def __init__(self, wiring: Wiring, task: str | None, target: Any) -> None:
        self.wiring: Wiring | None = wiring
        self.task = task
        function = target.func if isinstance(target, functools.partial) else target
        resource = peek(function, "__self__") if inspect.isroutine(function) else None
        owner = function if resource is None or inspect.ismodule(resource) else resource
        self._package = _module_of(owner).partition(".")[0]
        self._is_litellm = self._package == "litellm"
        self._base_url = _base_url_of(owner) or (_base_url_of(peek(owner, "_client")) if resource is not None else None)
        model = peek(owner, "model")
        self._model = model if isinstance(model, str) and "://" not in model else None
        self._hooks: dict[str, Hook] = {}

    def body_of(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The request as the dialects read it, in a dict of our own; `extra_body` wins, nothing is changed."""
        body = dict(zip(parameters_of(function)[0], args, strict=False), **kwargs) if args else kwargs
        extra = body.get("extra_body")
        if isinstance(extra, Mapping) and extra:
            body = {**body, **extra}
        if self._model is not None and not isinstance(body.get("model"), str):
            body = {**body, "model": self._model}
        wanted = body.get("response_format")
        if wanted is not None:
            written = _written_format(wanted)
            if written is not None:
                body = {**body, "response_format": written}
        return body

    def hook_for(self, body: Mapping[str, Any], wiring: Wiring) -> Hook:
        """The hook of the endpoint that a request goes to, cached."""
        base = body.get("api_base") or body.get("base_url") or self._base_url
        named = provider_named(body) if base is None else None
        if base is None and self._is_litellm:
            base = default_base(body)
        key = str(base) if base is not None else f" {named}"
        found = self._hooks.get(key)
        if found is None:
            found = Hook(wiring=wiring, base_url=base or "", task=self.task, original_class=type(self))
            if base is None:
                provider = named or _PACKAGES.get(self._package, self._package)
                found.endpoint = Endpoint(provider=provider, address=None, port=None)
                if wiring.stream_usage is None:
                    found.usage_wanted = self._is_litellm and named in STREAM_USAGE
            if len(self._hooks) < _MAX_HOOKS:
                self._hooks[key] = found
        return found


def peek(owner: Any, name: str) -> Any:
    """An attribute, or `None` where there is none or reading it raises."""
    try:
        return getattr(owner, name, None)
    except Exception:  # noqa: BLE001 - a property of somebody else's
        return None


def _module_of(owner: Any) -> str:
    if inspect.ismodule(owner):
        return owner.__name__
    found = peek(owner if inspect.isroutine(owner) else type(owner), "__module__")
    return found if isinstance(found, str) and found else "_OTHER"


def _base_url_of(client: Any) -> Any:
    for name in ("base_url", "_base_url", "api_base", "model"):
        found = peek(client, name)
        if isinstance(found, str):
            if "://" in found:
                return found
        elif isinstance(peek(found, "host"), str):
            return found
    return None


def _written_format(wanted: Any) -> Mapping[str, Any] | None:
    """A response format as the chat API would have it: from a model class, or TGI's `{"type": "json", "value": …}`."""
    if isinstance(wanted, Mapping):
        if wanted.get("type") == "json" and isinstance(wanted.get("value"), Mapping):
            return {"type": "json_schema", "json_schema": {"schema": wanted["value"]}}
        return None
    if not isinstance(wanted, type) or not callable(getattr(wanted, "model_json_schema", None)):
        return None
    found = _schemas.get(wanted)
    if found is None:
        schema = wanted.model_json_schema()  # type: ignore[attr-defined]
        found = _schemas[wanted] = {"type": "json_schema", "json_schema": {"schema": schema}}
    return found


def parameters_of(function: Any) -> tuple[tuple[str, ...], bool]:
    """The names of a function's positional parameters, and whether it takes `stream_options`; cached."""
    bound = getattr(function, "__self__", None) is not None
    try:
        return _parameters(getattr(function, "__func__", function), bound)
    except TypeError:  # not hashable
        return _parameters.__wrapped__(function, False)


@functools.lru_cache(maxsize=1024)
def _parameters(function: Any, bound: bool) -> tuple[tuple[str, ...], bool]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # written in C, or a stand-in of a test
        return (), True
    if bound and hasattr(function, "__code__"):
        parameters = parameters[1:]
    names = tuple(one.name for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD))
    if not names and any(one.kind is one.VAR_POSITIONAL for one in parameters):
        names = _STARRED.get(getattr(function, "__name__", ""), ())
    takes = any(one.name == "stream_options" or one.kind is one.VAR_KEYWORD for one in parameters)
    return names, takes


class Call:
    """What wraps one function: its dialect and its source, which may be replaced; without one nothing is observed."""

    __slots__ = ("dialect", "is_coroutine", "source")

    def __init__(self, function: Any, dialect: Dialect, source: Source) -> None:
        self.dialect = dialect
        self.source: Source | None = source
        self.is_coroutine = inspect.iscoroutinefunction(function)

    @property
    def observes(self) -> bool:
        """Whether calls are observed at all."""
        return self.source is not None and self.source.wiring is not None

    def __call__(self, wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        source = self.source
        if source is None or source.wiring is None:
            return wrapped(*args, **kwargs)
        if self.is_coroutine:
            inner = wrapped(*args, **kwargs)
            if not isinstance(inner, Coroutine):
                observation, _ = self._begin(wrapped, args, kwargs, ask=False)
                return inner if observation is None else taken(_settle, observation, inner)
            try:
                return observed_coroutine(inner, functools.partial(self._run, inner, wrapped, args, kwargs))
            except Exception as fault:  # noqa: BLE001
                tell(source.wiring.recorder, "coroutine", fault)
                return inner
        observation, kwargs = self._begin(wrapped, args, kwargs)
        if observation is None:
            return wrapped(*args, **kwargs)
        entered = enter(observation)
        try:
            result = wrapped(*args, **kwargs)
        except BaseException as error:
            leave(observation, entered)
            quietly(observation.hook.recorder, "failed", observation.failed, error)
            raise
        leave(observation, entered)
        return taken(_settle, observation, result)

    async def _run(self, inner: Any, wrapped: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        observation, asked = self._begin(wrapped, args, kwargs)
        if observation is None:
            return await inner
        if asked is not kwargs:
            inner.close()  # it has not started
            inner = wrapped(*args, **asked)
        entered = enter(observation)
        try:
            result = await inner
        except BaseException as error:
            leave(observation, entered)
            quietly(observation.hook.recorder, "failed", observation.failed, error)
            raise
        leave(observation, entered)
        return taken(_settle, observation, result)

    def _begin(
        self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, ask: bool = True
    ) -> tuple[Observation | None, dict[str, Any]]:
        """The call that begins, or `None` where nothing is to be recorded, and the arguments to go on with.

        With `ask` those may ask for the stream's usage. Never raises.
        """
        source = self.source
        wiring = None if source is None else source.wiring
        if source is None or wiring is None:
            return None, kwargs
        observation = None
        try:
            observation = self._observation(source, wiring, function, args, kwargs)
            if ask and observation is not None:
                return observation, _asked(observation, function, args, kwargs)
        except Exception as fault:  # noqa: BLE001
            if observation is not None:
                observation.hide_usage = False  # it was not asked for
            tell(wiring.recorder, "begin", fault)
        return observation, kwargs

    def _observation(
        self, source: Source, wiring: Wiring, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Observation | None:
        """Start observing; `None` inside a call that covers this one."""
        outer = current.get()
        if outer is not None and getattr(outer, "covers", False) and not outer.ended:
            return None
        body = source.body_of(function, args, kwargs)
        hook = source.hook_for(body, wiring)
        return CoveringObservation(hook, self.dialect, body, stream=bool(body.get("stream")))


class Observed(wrapt.FunctionWrapper):  # type: ignore[misc, type-arg, unused-ignore]
    """A function whose calls are observed. Copies and pickles are those of the bare function."""

    _self_replaced = False
    """Its owner held the bare function itself, not its class."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.__wrapped__, memo)

    def __copy__(self) -> Any:
        return self.__wrapped__

    def __reduce_ex__(self, protocol: Any) -> Any:
        bare = self.__wrapped__
        if not inspect.isfunction(bare):
            return bare.__reduce_ex__(protocol)
        if peek(sys.modules.get(bare.__module__), bare.__qualname__) is self:  # found by its name
            return bare.__qualname__
        return copy.copy, (bare,)


def observed(function: Any, dialect: Dialect, source: Source) -> Observed:
    """A function as `function`, observed."""
    return Observed(function, Call(function, dialect, source))


def call_of(function: Any) -> Call | None:
    """What wraps an observed function, or `None`."""
    wrapper = function._self_wrapper if isinstance(function, Observed) else None
    return wrapper if isinstance(wrapper, Call) else None


def _asked(observation: Observation, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments to call with: a new dict where the stream's usage is asked for."""
    if observation.stream and observation.may_ask_usage():
        names, takes = parameters_of(function)
        if takes and "stream_options" not in names[: len(args)] and not _in_extra_body(kwargs):
            return {**kwargs, "stream_options": observation.ask_usage()}
    return kwargs


def _in_extra_body(kwargs: Mapping[str, Any]) -> bool:
    extra = kwargs.get("extra_body")
    return isinstance(extra, Mapping) and "stream_options" in extra


def _settle(observation: Observation, result: Any) -> Any:
    """Take in what the function returned; gives what the application gets."""
    observation.http_response = None
    if inspect.isawaitable(result):
        return observed_awaitable(result, observation, _settle)
    if _is_stream(observation, result):
        return _stream(observation, result)
    cost = stated_cost(result)
    if cost is not None:
        observation.cost_header = cost
    observation.answered(readable(result))
    put_beside(result, observation)
    return result


def _is_stream(observation: Observation, result: Any) -> bool:
    kind = type(result)
    if isinstance(result, _WHOLE):
        return False
    if hasattr(kind, "__next__") or hasattr(kind, "__anext__"):
        return True
    if not observation.stream or hasattr(kind, "__pydantic_fields__") or hasattr(result, "choices"):
        return False
    return any(hasattr(kind, name) for name in ("__iter__", "__aiter__", "__enter__", "__aenter__"))


def _stream(observation: Observation, result: Any) -> Any:
    if isinstance(result, (list, tuple)):
        reader = observation.dialect.stream()
        for chunk in result:
            reader.see(readable(chunk))
        observation.stream_ended(reader, exhausted=True)
        return result
    response = getattr(result, "response", None)
    if hasattr(result, "_iterator") and (hasattr(response, "iter_bytes") or hasattr(response, "aiter_bytes")):
        attach(result, observation)
        if observation.stream_attached:
            put(result, observation)
            return result
    return observed_stream(result, observation)
