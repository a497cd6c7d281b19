"""Faults injected inside tierwise: any of its functions can be made to raise, wherever it is bound, and put back.

A function raises by having its code exchanged, so that it does under every name: imported by name elsewhere, held in a
table, bound as a method or a property, wrapped by a cache. A function that is made anew for each call (a closure) has
its code in the constants of the one that makes it; it is exchanged there.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import pkgutil
import random
import sys
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any, Final, get_overloads

import tierwise

PACKAGES: Final = ("instrument", "telemetry", "core", "evidence", "pricing", "routing", "runtime")
_ROOT: Final = Path(tierwise.__file__).parent
_INNER: Final = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>")

_GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "the guards: each catches what it calls, or calls nothing of ours": (
        "guard.tell",
        "guard.quietly",
        "guard.is_usage_alone",
        "marks.put",
        "context._driven",
        "duck._handed_out",
        "duckcalls.Call._begin",
        "everywhere._tell",
        "entering.enter",
        "entering.leave",
        "proxies._derived",
        "proxies._kept_back",
        "proxies.taken",
        "proxies.unobserved",
        "streams._hide_usage",
        "streams.Watch.close",
        "streams._looked_at",
        "streams.not_taken_in",
    ),
    "what the application itself calls: `tierwise.task`, its block and its decorated functions": (
        "context.task",
        "context.Task.__enter__",
        "context.Task.__exit__",
        "context.Task.__aenter__",
        "context.Task.__aexit__",
        "context.Task.__call__",
        "context.Task.__call__.<locals>.plain",
        "context.Task.__call__.<locals>.coroutine",
        "context.Task.__call__.<locals>.generator",
        "context.Task.__call__.<locals>.async_generator",
    ),
    "the client's own methods, overridden: each calls the bare one": (
        "stainless._sync_request.<locals>.request",
        "stainless._async_request.<locals>.request",
        "tries.build_request_of.<locals>.build_request",
        "tries.sync_sleep.<locals>.sleep_for_retry",
        "tries.async_sleep.<locals>.sleep_for_retry",
        "tries.sync_process.<locals>.process_response",
        "tries.async_process.<locals>.process_response",
        "stainless._copy.<locals>.copy",
        "stainless._watching.<locals>.watched",
        "stainless._around.<locals>.bare",
        "everywhere._patch_class.<locals>.initialise",
        "everywhere.observe_module_client.<locals>.initialise",
    ),
    "the response's and the stream's own methods, overridden: each calls the bare one": (
        "streams._make_class.<locals>.initialise",
        "streams._watched_class.<locals>.close",
        "streams._watched_class.<locals>.aclose",
        "streams._watched_class.<locals>.iter_bytes",
        "streams._watched_class.<locals>.aiter_bytes",
        "streams._watched_class.<locals>.iter_raw",
        "streams._watched_class.<locals>.aiter_raw",
    ),
    "functions of clients of another make, wrapped: each calls the bare one": (
        "duck.Node.__getattr__",
        "duck._Resource.__get__",
        "duckcalls.Call.__call__",
        "duckcalls.Call._run",
    ),
    "methods of the stand-ins for streams and awaitables: each calls the bare one": (
        "proxies._aclose",
        "proxies._aenter",
        "proxies._aenter_awaitable",
        "proxies._aexit",
        "proxies._aexit_awaitable",
        "proxies._aiter",
        "proxies._aiter_awaitable",
        "proxies._anext",
        "proxies._aread",
        "proxies._asend",
        "proxies._athrow",
        "proxies._await",
        "proxies._awaited",
        "proxies._close",
        "proxies._enter",
        "proxies._exit",
        "proxies._iter",
        "proxies._next",
        "proxies._read",
        "proxies._result",
        "proxies._send",
        "proxies._settled",
        "proxies._then_left",
        "proxies._throw",
        "proxies.observed_coroutine.<locals>.outer",
    ),
    "what sends a routed run: each guards its steps, or calls nothing of ours": (
        "routed.quick_sync",
        "routed.quick_async",
        "routed.route_sync",
        "routed.route_async",
        "routed._Progress.__init__",
        "routed._Progress.next",
        "routed._Progress.peeks",
        "routed._Progress.goes_on",
        "routed._Progress._take",
        "routed._Progress.end",
        "routed.with_default_model",
        "routed.peek",
        "routed.apeek",
        "routed.has_content",
        "routed._replayed",
        "routed._areplayed",
        "stainless._send",
        "stainless._send_async",
    ),
    "what a stream is read through where it could not be observed": (
        "guard.WithoutUsage.__init__",
        "guard.WithoutUsage.__getattr__",
        "guard.WithoutUsage.__class__",
        "guard.WithoutUsage.__iter__",
        "guard.WithoutUsage.__next__",
        "guard.WithoutUsage.__aiter__",
        "guard.WithoutUsage.__anext__",
        "guard.WithoutUsage.__enter__",
        "guard.WithoutUsage.__exit__",
        "guard.WithoutUsage.__aenter__",
        "guard.WithoutUsage.__aexit__",
        "guard.awaited_without_usage",
    ),
}
BOUNDARY: Final = {f"tierwise.instrument.{name}": why for why, names in _GROUPS.items() for name in names}
"""What stands between the application and the rest, and why it may not raise: full names to reasons."""


class Injected(Exception):
    """Raised by a function that was made to."""


KINDS: Final[tuple[type[Injected], ...]] = (
    Injected,
    *(
        type(f"Injected{base.__name__}", (Injected, base), {})
        for base in (ValueError, KeyError, AttributeError, TypeError, StopIteration, RecursionError, OSError)
    ),
)


@dataclass(eq=False, kw_only=True)
class Place:
    """One function that can be made to raise: its code, and the live functions that run it or make what runs it."""

    name: str
    code: CodeType
    functions: list[FunctionType] = field(default_factory=list)

    @property
    def package(self) -> str:
        """`instrument`, `telemetry` …"""
        return self.name.split(".")[1]


class _Strike:
    """What runs in the place of a function: raises, always or by chance, and else does what the function does."""

    def __init__(self, faults: Faults, place: Place, original: FunctionType | None, raises: Callable[[], bool]) -> None:
        self.faults, self.place, self.original, self.raises = faults, place, original, raises

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.original is None or self.raises():
            self.faults.raised += 1
            self.faults.raised_by.add(self.place.name)
            raise self.faults.kind(f"injected into {self.place.name}")
        return self.original(*args, **kwargs)


class Faults:
    """All places, and the means to make some of them raise. Made after a first use of everything: classes come late."""

    def __init__(self) -> None:
        self.places = {place.name: place for place in _places()}
        self.injectable = {name: place for name, place in self.places.items() if name not in BOUNDARY}
        self.raised = 0
        self.raised_by: set[str] = set()
        self.kind: type[Injected] = Injected
        self.forgetful = True
        """Results that are remembered are forgotten with each fault, which takes time."""
        self._by_code = {id(place.code): place for place in self.places.values()}
        self._watching = False
        self._armed: list[tuple[FunctionType, CodeType]] = []

    def arm(self, place: Place, *, raises: Callable[[], bool] = lambda: True, kind: type[Injected] = Injected) -> None:
        """Make a function raise until `disarm`, whenever `raises` says so; a closure always does."""
        self.kind = kind
        for function in place.functions:
            code = function.__code__
            direct = code is place.code
            original = _copy(function) if direct else None
            stub = _stub(place.code, _Strike(self, place, original, raises))
            self._armed.append((function, code))
            function.__code__ = stub if direct else _with_inner(code, place.code, stub)
        if self.forgetful:
            self.forget_cached()

    def forget_cached(self) -> None:
        """Let every function run that would only be remembered."""
        for known in _caches():
            known.cache_clear()

    def disarm(self) -> None:
        """Put everything back."""
        while self._armed:
            function, code = self._armed.pop()
            function.__code__ = code

    def watch(self, seen: dict[str, set[str]] | None) -> None:
        """Note from now on which places run, each with the names of the threads that ran it; `None` ends that."""
        if seen is None and not self._watching:
            return  # somebody else may be watching
        self._watching = seen is not None
        by_code = self._by_code

        def note(frame: FrameType, event: str, _: Any) -> None:
            place = by_code.get(id(frame.f_code)) if event == "call" else None
            if place is not None and seen is not None:
                seen[place.name].add(threading.current_thread().name)

        threading.setprofile(note if seen is not None else None)  # type: ignore[arg-type]
        sys.setprofile(note if seen is not None else None)


def _places() -> Iterator[Place]:
    """Every function of the packages: those alive, and those in the constants of functions alive."""
    found: dict[int, Place] = {}
    for function, name in _functions():
        for code, qualified in _codes(function.__code__, name):
            place = found.get(id(code))
            if place is None:
                place = found[id(code)] = Place(name=qualified, code=code)
            place.functions.append(function)
    taken: dict[str, int] = defaultdict(int)
    for place in sorted(found.values(), key=lambda place: (place.name, place.code.co_firstlineno)):
        taken[place.name] += 1
        if taken[place.name] > 1:
            place.name = f"{place.name}#{taken[place.name]}"
        yield place


def _functions() -> Iterator[tuple[FunctionType, str]]:
    """Live functions of the packages with their full names."""
    folders = tuple(f"{_ROOT / package}" for package in PACKAGES)
    modules = {module.__file__: module.__name__ for module in _modules()}
    seen = {id(one) for module in _modules() for top in _functions_in(module) for one in get_overloads(top)}
    for one in gc.get_objects():
        if type(one) is FunctionType and one.__code__.co_filename.startswith(folders) and id(one) not in seen:
            seen.add(id(one))
            yield one, f"{modules[one.__code__.co_filename]}.{one.__code__.co_qualname}"
    for module in _modules():  # what dataclasses and `core.records` compile is in no file
        owners = [module, *(one for one in vars(module).values() if inspect.isclass(one))]
        for owner in owners:
            for one in list(vars(owner).values()):
                generated = isinstance(one, FunctionType) and one.__code__.co_filename.startswith("<")
                if (
                    generated
                    and getattr(owner, "__module__", module.__name__) == module.__name__
                    and id(one) not in seen
                ):
                    seen.add(id(one))
                    made_for = one.__globals__.get("_class", owner)
                    yield one, f"{getattr(made_for, '__module__', module.__name__)}.{one.__qualname__}"


def _functions_in(module: Any) -> list[FunctionType]:
    return [one for one in vars(module).values() if type(one) is FunctionType]


@cache
def _modules() -> tuple[Any, ...]:
    found = []
    for package in PACKAGES:
        top = importlib.import_module(f"tierwise.{package}")
        found.append(top)
        below = pkgutil.walk_packages(getattr(top, "__path__", ()), f"tierwise.{package}.")
        found += [importlib.import_module(one.name) for one in below]
    return tuple(found)


@cache
def _caches() -> tuple[Any, ...]:
    """Everything that remembers results: what is remembered would not run the function again."""
    return tuple(
        one
        for module in _modules()
        for one in vars(module).values()
        if callable(getattr(one, "cache_clear", None)) and one.__module__ == module.__name__
    )


def _codes(code: CodeType, name: str) -> Iterator[tuple[CodeType, str]]:
    yield code, name
    for inner in code.co_consts:
        # Comprehensions are a part of their function; bodies of classes are not functions.
        if isinstance(inner, CodeType) and inner.co_name not in _INNER and inner.co_flags & inspect.CO_OPTIMIZED:
            yield from _codes(inner, f"{name}.<locals>.{inner.co_name}")


def _copy(function: FunctionType) -> FunctionType:
    made = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _with_inner(code: CodeType, inner: CodeType, stub: CodeType) -> CodeType:
    if code is inner:
        return stub
    constants = tuple(_with_inner(one, inner, stub) if isinstance(one, CodeType) else one for one in code.co_consts)
    same = all(new is old for new, old in zip(constants, code.co_consts, strict=True))
    return code if same else code.replace(co_consts=constants)


def _stub(code: CodeType, strike: _Strike) -> CodeType:
    """Code that fits where `code` was and calls `strike`."""
    bare = _bare_stub(code.co_freevars)
    constants = tuple(strike if one == "STRIKE" else one for one in bare.co_consts)
    return bare.replace(co_consts=constants, co_name=code.co_name, co_qualname=code.co_qualname)


@cache
def _bare_stub(names: tuple[str, ...]) -> CodeType:
    # The names of the enclosing function's variables have to be there, since the closure is.
    made = "".join(f" {name} = None\n" for name in names) or " pass\n"
    used = "".join(f"  if 0: {name}\n" for name in names)
    source = f"def outer():\n{made} def inner(*given_, **named_):\n{used}  return 'STRIKE'(given_, named_)\n"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        module = compile(source, "<injected>", "exec")
    (outer,) = (one for one in module.co_consts if isinstance(one, CodeType))
    (inner,) = (one for one in outer.co_consts if isinstance(one, CodeType))
    assert inner.co_freevars == names, (inner.co_freevars, names)
    return inner


def by_chance(seed: int, probability: float) -> Callable[[], bool]:
    """Says yes with a probability, the same way for the same seed."""
    draw = random.Random(seed).random  # noqa: S311
    return lambda: draw() < probability
