"""Receipts as texts: what goes in comes out, and nothing that anybody else writes gets in."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.calls import START_NS, make_call
from tierwise.core.call import Run
from tierwise.core.errors import ConfigError, ReceiptError
from tierwise.core.evidence import key_of, key_of_run
from tierwise.core.receipt import (
    LIFETIME_S,
    MAX_CHARS,
    Receipt,
    read_receipt,
    receipt_keys,
    receipt_of,
    unit_of_run,
    write_receipt,
)

NOW_S = START_NS / 1e9 + 60
KEY = b"0123456789abcdef-one"
OTHER = b"0123456789abcdef-two"
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
RECEIPTS = st.builds(
    Receipt,
    task=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60),
    candidate=NAMES,
    epoch=NAMES,
    arm=st.sampled_from(["primary", "canary", "explore", "fallback", "pinned"]),
    rung=st.integers(0, 9),
    grade=st.sampled_from(["randomised", "observational"]),
    session=NAMES,
    round=st.integers(-1, 100),
    started_at_ns=st.just(START_NS),
    provider=NAMES,
    run_id=st.none() | NAMES,
    response_id=st.none() | NAMES,
    trace_id=st.integers(0, (1 << 128) - 1),
    span_id=st.integers(0, (1 << 64) - 1),
    succeeded=st.booleans(),
    cost_usd=st.none() | st.floats(0, 1e6),
    settled=st.booleans(),
)


def _run(**changes: Any) -> Run:
    fields: dict[str, Any] = {
        "run_id": "r", "task": "summary", "candidate": "first", "epoch": "e0", "arm": "primary", "grade": "randomised",
        "started_at_ns": START_NS - 5, "duration_s": 3.0, "calls": 2, "success": True, "outcome": "success",
        "cost_usd": 0.004, "provider": "openai",
    }  # fmt: skip
    return Run(**(fields | changes))


def _text(values: list[Any]) -> str:
    return "tw1." + base64.urlsafe_b64encode(json.dumps(values).encode()).rstrip(b"=").decode()


def _values(receipt: Receipt) -> list[Any]:
    payload = write_receipt(receipt).split(".")[1]
    values: list[Any] = json.loads(base64.urlsafe_b64decode(payload + "=="))
    return values


@given(RECEIPTS, st.booleans())
def test_what_is_written_is_read(receipt: Receipt, signed: bool) -> None:
    """A receipt comes back as it was, signed or not, names in any script included."""
    keys = [KEY] if signed else []
    assert read_receipt(write_receipt(receipt, keys), keys=keys, now_s=NOW_S) == receipt


def test_it_is_short() -> None:
    """An ordinary signed receipt has under 400 characters and needs no escaping anywhere."""
    call = make_call("strict-json", trace_id=(1 << 127) + 5, span_id=(1 << 63) + 7)
    text = write_receipt(receipt_of(call), [KEY])
    assert len(text) < 400
    assert set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def test_a_call_alone_counts_under_its_own_key() -> None:
    """The receipt of a call that is its own run has the call's evidence key, success, cost, span and response."""
    call = make_call(arm="canary", trace_id=7, span_id=9, session="s", round=3)
    receipt = receipt_of(call)
    assert receipt.key == key_of(call)
    assert (receipt.succeeded, receipt.cost_usd, receipt.settled, receipt.run_id) == (True, 0.001, True, None)
    assert (receipt.trace_id, receipt.span_id, receipt.response_id) == (7, 9, "r-1")


def test_a_call_of_a_run_counts_under_the_runs_key() -> None:
    """Receipts of all calls of a run are about the run, each with its own call's span."""
    run = _run()
    calls = [make_call(run_id="r", rung=rung, span_id=rung + 1, model=f"m{rung}") for rung in range(2)]
    receipts = [receipt_of(call, run) for call in calls]
    assert {receipt.key for receipt in receipts} == {key_of_run(run)}
    assert {receipt.unit for receipt in receipts} == {unit_of_run("summary", "r", START_NS - 5)}
    assert [receipt.span_id for receipt in receipts] == [1, 2]
    assert (receipts[0].succeeded, receipts[0].cost_usd) == (True, 0.004)


def test_a_run_of_which_nothing_has_finished_is_still_named() -> None:
    """Without a finished first call the receipt names the run and is open, so that the store can settle it."""
    receipt = receipt_of(make_call(run_id="r", rung=1), None, run_started_at_ns=START_NS - 5, ended=False)
    assert receipt.unit == unit_of_run("summary", "r", START_NS - 5)
    assert (receipt.settled, receipt.rung) == (False, 0)


def test_two_calls_are_never_one() -> None:
    """Calls without spans that start in the same nanosecond are told apart by their answers."""
    first, second = (receipt_of(make_call()) for _ in range(2))
    assert first.unit == second.unit
    assert replace(second, response_id="r-2").unit != first.unit
    assert replace(second, started_at_ns=START_NS + 1).unit != first.unit


def test_signed_with_another_key_or_changed_it_is_refused() -> None:
    """Another key, a changed payload, a cut or foreign signature: each is refused, and none of it is looked into."""
    text = write_receipt(receipt_of(make_call()), [KEY])
    head, payload, signature = text.split(".")
    other = write_receipt(receipt_of(make_call("other")), [KEY]).split(".")
    forged = [
        write_receipt(receipt_of(make_call()), [OTHER]),
        f"{head}.{other[1]}.{signature}",
        f"{head}.{payload}.{other[2]}",
        f"{head}.{payload}.{signature[:-2]}",
        f"{head}.{payload}.",
        f"{head}.{payload}.!!!",
        f"{head}.!!!.{signature}",
    ]
    for one in forged:
        with pytest.raises(ReceiptError, match="signature is wrong"):
            read_receipt(one, keys=[KEY], now_s=NOW_S)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_any_changed_byte_breaks_a_signed_receipt(place: int, change: int) -> None:
    """Whatever character of a signed receipt is changed, it is refused."""
    text = write_receipt(receipt_of(make_call()), [KEY])
    place %= len(text)
    changed = text[:place] + chr(ord(text[place]) ^ change) + text[place + 1 :]
    with pytest.raises(ReceiptError):
        read_receipt(changed, keys=[KEY], now_s=NOW_S)


def test_with_a_key_unsigned_ones_are_refused_and_without_one_signed_ones() -> None:
    """Nobody is let in by leaving the signature away, and a missing key is noticed."""
    receipt = receipt_of(make_call())
    with pytest.raises(ReceiptError, match="not signed"):
        read_receipt(write_receipt(receipt), keys=[KEY], now_s=NOW_S)
    with pytest.raises(ReceiptError, match="TIERWISE_RECEIPT_KEY"):
        read_receipt(write_receipt(receipt, [KEY]), keys=[], now_s=NOW_S)


def test_keys_can_be_exchanged() -> None:
    """The first key signs; receipts of the others are taken as long as they are named."""
    old, new = "old-key-old-key-old", "new-key-new-key-new"
    text = write_receipt(receipt_of(make_call()), receipt_keys(old))
    both = receipt_keys(f"{new} {old}")
    assert read_receipt(text, keys=both, now_s=NOW_S).task == "summary"
    assert write_receipt(receipt_of(make_call()), both) == write_receipt(receipt_of(make_call()), receipt_keys(new))
    assert receipt_keys(None) == receipt_keys("  ") == ()
    with pytest.raises(ConfigError, match="at least 16"):
        receipt_keys(f"{new} short")


def test_too_old_or_from_the_future_it_is_refused() -> None:
    """A receipt is taken for its lifetime, with a day's difference between clocks."""
    text = write_receipt(receipt_of(make_call()))
    born_s = START_NS / 1e9
    assert read_receipt(text, now_s=born_s + LIFETIME_S - 1)
    assert read_receipt(text, now_s=born_s - 3600)
    with pytest.raises(ReceiptError, match="days old"):
        read_receipt(text, now_s=born_s + LIFETIME_S + 1)
    with pytest.raises(ReceiptError, match="future"):
        read_receipt(text, now_s=born_s - 2 * 86_400)


@pytest.mark.parametrize(
    "text",
    [
        "", "tw1", "tw1.", "tw1.e30", "tw2.e30", "x" * (MAX_CHARS + 1), "tw1.W10", "tw1.W10=", "tw1.é", "tw1.W10.a.b",
        "tw1." + base64.urlsafe_b64encode(b"[" * 3000).decode().rstrip("="),
        "tw1." + base64.urlsafe_b64encode(b"\xff\xfe").decode().rstrip("="),
        "tw1." + base64.urlsafe_b64encode(b"9" * 3000).decode().rstrip("="),
    ],
)  # fmt: skip
def test_what_is_no_receipt_is_refused(text: str) -> None:
    """Anything else, deep nesting, huge numbers and long texts included, is refused in words."""
    with pytest.raises(ReceiptError):
        read_receipt(text, now_s=NOW_S)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (0, ""), (0, None), (0, "x" * 401), (0, "\ud800"), (1, 3), (3, 99), (3, -1), (3, True), (4, -1), (4, 1.5),
        (7, -2), (8, 1 << 63), (8, "now"), (12, "zz"), (12, "0" * 31), (13, "F" * 16), (14, 2), (15, -1), (15, "1"),
        (15, True), (15, 1e300), (16, None),
    ],
)  # fmt: skip
def test_values_out_of_bounds_are_refused(place: int, value: Any) -> None:
    """Each value has its type and bounds, since an unsigned receipt may be written by anybody."""
    values = _values(receipt_of(make_call()))
    read_receipt(_text(values), now_s=NOW_S)
    values[place] = value
    with pytest.raises(ReceiptError, match="damaged"):
        read_receipt(_text(values), now_s=NOW_S)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=40))
def test_hostile_payloads_end_in_a_receipt_error(value: Any) -> None:
    """Whatever JSON stands in a receipt, reading it gives a receipt or a `ReceiptError`."""
    payload = base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()
    with pytest.raises(ReceiptError):
        read_receipt(f"tw1.{payload}", now_s=NOW_S)


def test_names_that_are_too_long_make_no_receipt() -> None:
    """A call whose names do not fit gets no receipt, and the message names the culprit."""
    with pytest.raises(ReceiptError, match="candidate"):
        write_receipt(receipt_of(make_call(candidate="m" * 401)))


def test_texts_are_as_the_store_keeps_them() -> None:
    """Lone surrogates in names become what the store writes, so that the verdict finds its row."""
    assert receipt_of(make_call("a\ud800b")).task == "a?b"
