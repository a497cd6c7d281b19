"""Epochs: short, canonical, stable across processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import OrderedDict
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierwise.core.epoch import canonical, epoch_of

PARAMS = {"temperature": 1, "stop": ["a", "b"], "reasoning": {"effort": "low", "tags": {"x", "y", "z"}}}
SNIPPET = f"""
from tierwise.core.epoch import epoch_of
print(epoch_of(response_model="m-1", rates_identity="abcd1234", params={PARAMS!r}, prompt_version="v2"))
"""


def test_epochs_are_the_same_in_every_process() -> None:
    """Hash seeds, and so the order of sets, do not matter."""
    seen = {
        subprocess.run(
            [sys.executable, "-c", SNIPPET],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for seed in ("0", "1", "2")
    }
    assert seen == {epoch_of(response_model="m-1", rates_identity="abcd1234", params=PARAMS, prompt_version="v2")}


def test_epochs_never_change_between_releases() -> None:
    """Stored evidence is keyed by these values: a change would split every candidate's history."""
    assert epoch_of(response_model=None, rates_identity=None) == "243caa88"
    assert epoch_of(response_model="gpt-5", rates_identity="00", params={"a": 1}, prompt_version="p") == "31f0350f"


@pytest.mark.parametrize(
    "change",
    [{"response_model": "m-2"}, {"rates_identity": None}, {"params": {"temperature": 0}}, {"prompt_version": None}],
)
def test_each_part_makes_a_new_epoch(change: dict[str, object]) -> None:
    """Response model, rates, parameters and prompt version each start a new epoch."""
    base: dict[str, object] = {
        "response_model": "m-1",
        "rates_identity": "aa",
        "params": {"temperature": 1},
        "prompt_version": "v1",
    }
    assert epoch_of(**base) != epoch_of(**{**base, **change})  # type: ignore[arg-type]


def test_spelling_does_not_matter() -> None:
    """Order of keys, kind of mapping, lists for tuples and 1.0 for 1 are the same parameters."""
    spellings = [
        {"a": 1, "b": [1, 2]},
        OrderedDict([("b", (1.0, 2)), ("a", 1.0)]),
        MappingProxyType({"b": [1, 2.0], "a": 1}),
    ]
    assert len({epoch_of(response_model="m", rates_identity=None, params=params) for params in spellings}) == 1
    assert canonical(True) != canonical(1)
    assert canonical("1") != canonical(1)


def test_no_parameters_are_no_parameters() -> None:
    """An absent mapping and an empty one are the same."""
    assert epoch_of(response_model="m", rates_identity=None, params={}) == epoch_of(
        response_model="m", rates_identity=None
    )


def test_odd_values_count_by_their_type() -> None:
    """Objects without a JSON form, bytes and cycles still give a stable epoch."""
    loop: dict[str, object] = {}
    loop["self"] = loop
    first = epoch_of(response_model="m", rates_identity=None, params={"o": object(), "b": b"\x00", "l": loop})
    assert first == epoch_of(response_model="m", rates_identity=None, params={"o": object(), "b": b"\x00", "l": loop})
    assert first != epoch_of(response_model="m", rates_identity=None, params={"o": object(), "b": b"\x01", "l": loop})


text = st.none() | st.text(st.characters(codec=None), max_size=10)


@given(text, text, text, st.dictionaries(st.text(max_size=3), st.floats() | st.text(max_size=3), max_size=3))
def test_epochs_are_eight_hex_characters(
    model: str | None, rates: str | None, prompt: str | None, params: dict[str, object]
) -> None:
    """Any text, surrogates included, and any number, NaN included, gives eight hex characters."""
    epoch = epoch_of(response_model=model, rates_identity=rates, params=params, prompt_version=prompt)
    assert len(epoch) == 8
    assert int(epoch, 16) >= 0
