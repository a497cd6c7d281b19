"""Hostile bytes to every reader: nothing escapes but the error that it says it raises, in bounded time and memory."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.fuzz_targets import TARGETS, corpus

PIECES = (
    b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"true", b"-1", b"1e999", b"NaN", b'"\\ud800"', b"\x00", b"\xff",
    b"\n", b"\n\n", b"data: ", b"[DONE]", b"```", b"&a ", b"*a", b"!!", b"|", b">-", b".", b"9" * 400, b"[" * 400, b"{}",
    b"\xed\xa0\x80", b"\xf0\x9f\xa6\x8a", b"<script>", b"%",
)  # fmt: skip
MOST_BYTES = 96 << 20


def changed(target: str) -> st.SearchStrategy[bytes]:
    """A kept input with up to six cuts, each with something else in its place; or any bytes."""
    cut = st.tuples(st.floats(0, 1), st.integers(0, 40), st.sampled_from(PIECES) | st.binary(max_size=12))

    def apply(values: tuple[bytes, list[tuple[float, int, bytes]]]) -> bytes:
        data, cuts = values
        for share, length, piece in cuts:
            at = int(share * len(data))
            data = data[:at] + piece + data[at + length :]
        return data

    return st.tuples(st.sampled_from(corpus(target)), st.lists(cut, max_size=6)).map(apply) | st.binary(max_size=200)


@pytest.mark.parametrize("target", TARGETS)
def test_kept_inputs_are_harmless(target: str) -> None:
    """Every input that is kept, among them all that ever did harm."""
    for data in corpus(target):
        TARGETS[target](data)


@pytest.mark.faults
@pytest.mark.parametrize("target", TARGETS)
def test_changed_inputs_are_harmless(target: str) -> None:
    """Hundreds of changed inputs, each within seconds and all of them within bounded memory."""

    @settings(max_examples=400, deadline=20_000, database=None, suppress_health_check=list(HealthCheck))
    @given(data=changed(target))
    def harmless(data: bytes) -> None:
        TARGETS[target](data)

    tracemalloc.start()
    try:
        harmless()
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
