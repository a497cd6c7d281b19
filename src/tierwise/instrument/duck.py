"""Clients and functions of any make, through wrapt: whatever has `.chat.completions.create`, and LiteLLM's functions.

A method is wrapped on the resource object that has it. Where a client makes its resources anew on each access, the
client's class is swapped for a cached subclass that hands out proxies of them. `uninstrument` undoes either.
"""

from __future__ import annotations

import copy
import copyreg
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from tierwise.core.errors import ConfigError
from tierwise.instrument.dialects import dialect_for
from tierwise.instrument.dialects.base import Dialect
from tierwise.instrument.duckcalls import Observed, Source, call_of, observed, peek
from tierwise.instrument.guard import tell
from tierwise.instrument.hook import Wiring
from tierwise.instrument.proxies import TransparentProxy

_KEY: Final = "_tierwise_duck"
_ORIGINAL: Final = "_tierwise_original"
_PATHS: Final = "_tierwise_paths"
_CHAT, _RESPONSES, _EMBEDDINGS, _COMPLETIONS = (
    dialect_for("post", path) for path in ("/chat/completions", "/responses", "/embeddings", "/completions")
)

Tree = Mapping[str, Any]
"""Names of resources, down to the methods, each with its dialect."""
_METHODS: Final[Tree] = {
    "chat_completion": _CHAT,  # huggingface_hub's own name, which its `chat.completions.create` goes through
    "chat": {"completions": {"create": _CHAT}},
    "responses": {"create": _RESPONSES},
    "embeddings": {"create": _EMBEDDINGS},
    "completions": {"create": _COMPLETIONS},
}
_FUNCTIONS: Final[Tree] = {
    "completion": _CHAT,
    "acompletion": _CHAT,
    "completion_with_retries": _CHAT,
    "acompletion_with_retries": _CHAT,
    "text_completion": _COMPLETIONS,
    "atext_completion": _COMPLETIONS,
    "embedding": _EMBEDDINGS,
    "aembedding": _EMBEDDINGS,
    "responses": _RESPONSES,
    "aresponses": _RESPONSES,
}
_swapped: dict[tuple[type, tuple[str, ...], int], type] = {}


def supports(target: object) -> bool:
    """Whether a target is a client, a module or a function that can be observed here."""
    if isinstance(target, type):
        return False
    if inspect.ismodule(target):
        return any(callable(peek(target, name)) for name in ("completion", "acompletion"))
    if _is_function(target):
        return _dialect_of(target) is not None
    completions = peek(peek(target, "chat"), "completions")
    return callable(peek(completions, "create"))


def instrument(target: Any, wiring: Wiring, task: str | None) -> Any:
    """Observe the calls of a client, a module's functions or one function from now on.

    Returns what the application is to use: the same client or module, or the function wrapped. Instrumenting again
    replaces the wiring. Raises `ConfigError` for anything that has none of the shapes.
    """
    if not supports(target):
        raise ConfigError(
            f"cannot instrument {_name_of(target)}: it has no chat.completions.create; pass a client that has, "
            "the litellm module, or a function that takes model and messages"
        )
    if _is_function(target):
        return _instrument_function(target, wiring, task)
    source = Source(wiring, task, target)
    installed = [_install(target, tree, source) for tree in _trees(target)]
    if not all(installed) and not _is_observed(target):
        raise ConfigError(
            f"cannot instrument {_name_of(target)}: its chat.completions.create cannot be replaced; "
            "instrument the function: create = tierwise.instrument(client.chat.completions.create)"
        )
    return target


def uninstrument(target: Any) -> bool:
    """Undo `instrument`; false when the target was not instrumented. A wrapped function passes everything through."""
    call = call_of(target)
    if call is not None:
        was, call.source = call.observes, None
        return was
    if isinstance(target, type) or _is_function(target):
        return False
    removed = [_remove(target, tree) for tree in _trees(target)]
    return any(removed)


def _is_function(target: object) -> bool:
    return inspect.isroutine(target) or isinstance(target, (functools.partial, Observed))


def _name_of(target: Any) -> str:
    return getattr(target, "__name__", None) or type(target).__name__


def _dialect_of(function: Any) -> Dialect | None:
    """The API that a function speaks: LiteLLM's by name, any other by its parameters."""
    bare = function.func if isinstance(function, functools.partial) else function
    name = getattr(bare, "__name__", "")
    known: Dialect | None = _FUNCTIONS.get(name)
    if known is not None:
        return known
    try:
        parameters = inspect.signature(bare).parameters
    except (TypeError, ValueError):
        return None
    if "messages" in parameters:
        return _CHAT
    if "prompt" in parameters and "model" in parameters:
        return _COMPLETIONS
    if "input" in parameters and "model" in parameters:
        where = f"{getattr(bare, '__module__', '')}.{getattr(bare, '__qualname__', '')}"
        return _EMBEDDINGS if "embed" in where.lower() else _RESPONSES
    return None


def _instrument_function(function: Any, wiring: Wiring, task: str | None) -> Any:
    source = Source(wiring, task, function)
    call = call_of(function)
    if call is not None:
        call.source = source
        return function
    dialect = _dialect_of(function)
    return function if dialect is None else observed(function, dialect, source)


def _trees(target: Any) -> Iterator[Tree]:
    if inspect.ismodule(target):
        yield _FUNCTIONS
        return
    yield _METHODS
    if type(target).__module__.partition(".")[0] == "litellm":  # its Router
        yield _FUNCTIONS


def _is_observed(target: Any) -> bool:
    if inspect.ismodule(target):
        return any(call_of(peek(target, name)) is not None for name in _FUNCTIONS)
    return call_of(peek(peek(peek(target, "chat"), "completions"), "create")) is not None


# -- installing ------------------------------------------------------------------------------------------------------


def _install(owner: Any, tree: Tree, source: Source) -> bool:
    """Observe what there is of a tree under an object; false when one of its methods could not be."""
    done = True
    for name, below in tree.items():
        value = peek(owner, name)
        if value is None:
            continue
        if not isinstance(below, Mapping):
            done = _install_method(owner, name, value, below, source) and done
        elif not _observes(value, below, source):
            stable = peek(owner, name) is value
            done = (stable and _install(value, below, source)) or _swap(owner, name, tree, source)
    return done


def _observes(owner: Any, tree: Tree, source: Source) -> bool:
    """Whether what is under an object goes through a method that was wrapped with this source already."""
    for name, below in tree.items():
        value = peek(owner, name)
        if value is None:
            continue
        if isinstance(below, Mapping):
            if not _observes(value, below, source):
                return False
        else:
            call = call_of(value)
            if call is None or call.source is not source:
                return False
    return True


def _install_method(owner: Any, name: str, method: Any, dialect: Dialect, source: Source) -> bool:
    call = call_of(method)
    if call is not None:
        call.source = source
        if peek(owner, name) is method:
            return True
        method = method.__wrapped__
    if not callable(method) or (inspect.ismodule(owner) and not inspect.isroutine(method)):
        return True
    wrapped = observed(method, dialect, source)
    wrapped._self_replaced = name in getattr(owner, "__dict__", {})
    try:
        setattr(owner, name, wrapped)
    except Exception:  # noqa: BLE001 - slots, a property, a model that checks its fields
        kept = getattr(owner, "__dict__", None)
        if not isinstance(kept, dict):
            return False
        kept[name] = wrapped
    if peek(owner, name) is wrapped:
        return True
    getattr(owner, "__dict__", {}).pop(name, None)
    return False


def _swap(owner: Any, name: str, tree: Tree, source: Source) -> bool:
    """Give an object a class whose resource `name` is handed out as a proxy; false where that cannot be done."""
    kept = getattr(owner, "__dict__", None)
    if not isinstance(kept, dict) or inspect.ismodule(owner):
        return False
    kind = type(owner)
    known: tuple[str, ...] = getattr(kind, _PATHS, ()) if _KEY in kept else ()
    original = getattr(kind, _ORIGINAL) if known else kind
    names = tuple(sorted({*known, name}))
    key = (original, names, id(tree))
    made = _swapped.get(key)
    if made is None:
        made = _swapped[key] = _class_with(original, names, tree)
    try:
        owner.__class__ = made
    except TypeError:
        return False
    kept[_KEY] = source
    return True


def _class_with(original: type, names: tuple[str, ...], tree: Tree) -> type:
    namespace: dict[str, Any] = {
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "__doc__": original.__doc__,
        "__slots__": (),
        _ORIGINAL: original,
        _PATHS: names,
    }
    made = types.new_class(original.__name__, (original,), exec_body=lambda body: body.update(namespace))
    for name in names:
        setattr(made, name, _Resource(made, original, name, tree[name]))
    setattr(made, "__reduce_ex__", _reducer(made, original))  # noqa: B010
    return made


class _Resource:
    """A resource of a client whose class was swapped, handed out as a `Node`; set and deleted as before."""

    def __init__(self, made: Any, original: type, name: str, tree: Tree) -> None:
        self._made, self._name, self._tree = made, name, tree
        found = inspect.getattr_static(original, name, None)
        self._bare: Any = found if inspect.isdatadescriptor(found) else None

    def __get__(self, client: Any, owner: type) -> Any:
        above, name = super(self._made, client), self._name
        if client is None:
            return getattr(above, name)
        if self._bare is None and name in client.__dict__:
            value = client.__dict__[name]
        else:
            try:
                value = getattr(above, name)
            except AttributeError:
                fallback = getattr(above, "__getattr__", None)
                if fallback is None:
                    raise
                value = fallback(name)
        source = client.__dict__.get(_KEY)
        return value if source is None else _handed_out(value, self._tree, source)

    def __set__(self, client: Any, value: Any) -> None:
        if self._bare is None:
            client.__dict__[self._name] = value
        else:
            self._bare.__set__(client, value)

    def __delete__(self, client: Any) -> None:
        if self._bare is None:
            del client.__dict__[self._name]
        else:
            self._bare.__delete__(client)


def _reducer(made: Any, original: type) -> Callable[[Any, Any], Any]:
    def reduce(self: Any, protocol: Any) -> Any:
        """Copy and pickle as the bare client would."""
        found: Any = super(made, self).__reduce_ex__(protocol)
        if not isinstance(found, tuple) or len(found) < 3 or not isinstance(found[2], dict):
            return found
        make, arguments = found[0], tuple(original if one is made else one for one in found[1])
        if arguments == (original,):  # `__newobj__` would be refused: the class is not the object's
            make, arguments = copyreg._reconstructor, (original, object, None)  # type: ignore[attr-defined]
        state = {name: value for name, value in found[2].items() if name != _KEY}
        return (make, arguments, state, *found[3:])

    return reduce


class Node(TransparentProxy):  # type: ignore[misc]
    """A resource of a client that makes them anew on each access: its methods come out observed."""

    def __init__(self, wrapped: Any, tree: Tree, source: Source) -> None:
        super().__init__(wrapped)
        self._self_tree, self._self_source = tree, source

    def __copy__(self) -> Any:
        return copy.copy(self.__wrapped__)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.__wrapped__, memo)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.__wrapped__.__reduce_ex__(protocol)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.__wrapped__, name)
        below = self._self_tree.get(name)
        return value if below is None else _handed_out(value, below, self._self_source)


def _handed_out(value: Any, below: Any, source: Source) -> Any:
    """A resource or a method, observed, or as it is. Never raises."""
    try:
        return _below(value, below, source)
    except Exception as fault:  # noqa: BLE001
        tell(source.wiring.recorder if source.wiring is not None else None, "resource", fault)
        return value


def _below(value: Any, below: Any, source: Source) -> Any:
    if value is None or call_of(value) is not None:
        return value
    if isinstance(below, Mapping):
        return Node(value, below, source)
    return observed(value, below, source) if callable(value) else value


# -- removing --------------------------------------------------------------------------------------------------------


def _remove(owner: Any, tree: Tree) -> bool:
    """Undo what is under an object; true when there was something."""
    found = False
    kept = getattr(owner, "__dict__", None)
    if isinstance(kept, dict) and _KEY in kept:
        original = getattr(type(owner), _ORIGINAL, None)
        source = kept.pop(_KEY)
        source.wiring, found = None, True
        if original is not None:
            owner.__class__ = original
    for name, below in tree.items():
        static = inspect.getattr_static(owner, name, None)
        if isinstance(static, functools.cached_property):  # never looked at: it is not made now
            continue
        value = peek(owner, name)
        if value is None:
            continue
        if isinstance(below, Mapping):
            found = _remove(value, below) or found
            continue
        call = call_of(value)
        if call is None:
            continue
        found, call.source = call.observes or found, None
        _restore(owner, name, value)
    return found


def _restore(owner: Any, name: str, method: Observed) -> None:
    kept = getattr(owner, "__dict__", {})
    if kept.get(name) is not method:
        return
    if method._self_replaced:
        kept[name] = method.__wrapped__
    else:
        del kept[name]
