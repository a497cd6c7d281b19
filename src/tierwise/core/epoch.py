"""Epochs: a short hash of everything that makes a candidate what it is, stable across processes and machines."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

_MAX_DEPTH: Final = 16


def epoch_of(
    *,
    response_model: str | None,
    rates_identity: str | None,
    params: Mapping[str, object] | None = None,
    prompt_version: str | None = None,
) -> str:
    """Eight hex characters naming the stretch in which a candidate is the same thing.

    `response_model` is the model that answered, `rates_identity` is `Rates.identity` (`None` without a price), `params`
    the candidate's own parameters (of a named candidate; not those of a single request). The order of keys does not
    matter, and 1 equals 1.0. Values that JSON does not know count by their type alone.
    """
    return _digest(response_model, rates_identity, canonical(params) if params else "", prompt_version)


def canonical(value: object) -> str:
    """One text for all spellings of the same JSON-like value: sorted keys, integral floats as integers."""
    return json.dumps(_plain(value, 0), sort_keys=True, separators=(",", ":"))


@functools.lru_cache(maxsize=4096)
def _digest(*parts: str | None) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=4).hexdigest()


def _plain(value: object, depth: int) -> object:  # noqa: PLR0911 - one return for each kind of value
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if depth < _MAX_DEPTH:
        if isinstance(value, Mapping):
            return {str(key): _plain(item, depth + 1) for key, item in value.items()}
        if isinstance(value, bytes):
            return {"bytes": value.hex()}
        if isinstance(value, Sequence):
            return [_plain(item, depth + 1) for item in value]
        if isinstance(value, AbstractSet):
            return sorted(canonical(item) for item in value)
    return {"type": f"{type(value).__module__}.{type(value).__qualname__}"}
