"""Receipts that come back from strangers: forged, cut, signed with another key, used again and again, of another store."""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tierwise
from support.canned import ASK, chat, sync_client
from tierwise.core.receipt import Receipt, read_receipt, receipt_keys, write_receipt

pytestmark = pytest.mark.faults

KEY, OTHER = "k" * 32, "o" * 32


@pytest.fixture
def signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A genuine receipt of a call that counts in `mine.db`, whose application has a key."""
    monkeypatch.setenv("TIERWISE_RECEIPT_KEY", KEY)
    monkeypatch.setenv("TIERWISE_STORE", str(tmp_path / "mine.db"))
    client, _ = sync_client(chat())
    tierwise.instrument(client)
    with tierwise.task("summary"):
        yield tierwise.receipt(client.chat.completions.create(**ASK))
    tierwise.shutdown()
    client.close()


def counted(folder: Path, name: str = "mine.db") -> dict[str, tuple[int, int]]:
    """Accepted and rejected by task, as the store counts them."""
    tierwise.force_flush()
    found: dict[str, tuple[int, int]] = {}
    with tierwise.open_store(folder / name) as store:
        for row in store.evidence():
            accepted, rejected = found.get(row.key.task, (0, 0))
            found[row.key.task] = accepted + row.evidence.accepted, rejected + row.evidence.rejected
    return found


def with_value(receipt: str, place: int, value: Any) -> str:
    """A receipt with one value changed and the signature left as it was."""
    version, payload, signature = receipt.split(".")
    values = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert values[place] != value
    values[place] = value
    changed = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
    return f"{version}.{base64.urlsafe_b64encode(changed).rstrip(b'=').decode()}.{signature}"


@pytest.mark.parametrize(
    ("place", "value"),
    [(0, "other-task"), (1, "other-model"), (2, "e"), (3, 4), (4, 1), (5, 0), (6, "s"), (7, 3), (8, 1), (9, "other"),
     (10, "run"), (11, "other-id"), (12, "0" * 31 + "1"), (13, "0" * 15 + "1"), (14, 0), (15, 9.5), (16, 0)],
)  # fmt: skip
def test_no_field_can_be_changed(signed: str, tmp_path: Path, place: int, value: Any) -> None:
    """Each of the values is under the signature: a changed one is refused and nothing is counted."""
    with pytest.raises(tierwise.ReceiptError, match="signature is wrong"):
        tierwise.feedback(with_value(signed, place, value), accepted=False)
    assert counted(tmp_path) == {"summary": (0, 0)}


def test_no_cut_receipt_is_taken(signed: str, tmp_path: Path) -> None:
    """Every shorter text, the one without its signature among them, and every longer one."""
    for text in (*(signed[:end] for end in range(len(signed))), signed + "A", signed + ".", f"{signed}.{signed}"):
        with pytest.raises(tierwise.ReceiptError):
            tierwise.feedback(text, accepted=False)
    assert counted(tmp_path) == {"summary": (0, 0)}


def test_another_key_does_not_sign_for_us(signed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receipt signed with another key, an empty signature, and a signature of another text are refused."""
    keys, now_s = receipt_keys(KEY), 4e9
    genuine = read_receipt(signed, keys=keys, now_s=time.time())
    assert isinstance(genuine, Receipt)
    foreign = write_receipt(genuine, receipt_keys(OTHER))
    of_another = write_receipt(replace(genuine, task="other"), keys)
    head, tail = signed.rsplit(".", 1)
    for text in (foreign, f"{head}.", f"{head}.AAAAAAAAAAAAAAAAAAAAAA", f"{head}.{of_another.rsplit('.', 1)[1]}", head):
        with pytest.raises(tierwise.ReceiptError, match=r"signature is wrong|not signed"):
            tierwise.feedback(text, accepted=True)
    with pytest.raises(tierwise.ReceiptError, match="days old"):
        read_receipt(signed, keys=keys, now_s=now_s)
    monkeypatch.setenv("TIERWISE_RECEIPT_KEY", OTHER)
    with pytest.raises(tierwise.ReceiptError, match="signature is wrong"):
        read_receipt(f"{head}.{tail}", keys=receipt_keys(OTHER), now_s=1.0)


def test_signatures_are_compared_in_constant_time(signed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key's signature is compared, all of it, also after one that fits or differs in its first byte."""
    compared: list[tuple[bytes, bytes]] = []
    true = hmac.compare_digest

    def watched(ours: bytes, given: bytes) -> bool:
        compared.append((ours, given))
        return true(ours, given)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    keys = receipt_keys(f"{KEY} {OTHER} {'p' * 32}")
    read_receipt(signed, keys=keys, now_s=time.time())
    head, tail = signed.rsplit(".", 1)
    wrong = f"{head}.{'B' if tail[0] == 'A' else 'A'}{tail[1:]}"
    with pytest.raises(tierwise.ReceiptError):
        read_receipt(wrong, keys=keys, now_s=1.0)
    assert len(compared) == 2 * len(keys)
    assert all(len(ours) == len(given) == 16 for ours, given in compared)


def test_used_again_it_counts_once_and_the_last_verdict_is_in_force(signed: str, tmp_path: Path) -> None:
    """A replayed verdict adds nothing; another one takes the place of the first, back and forth, at once and later."""
    for _ in range(50):
        tierwise.feedback(signed, accepted=True)
    assert counted(tmp_path) == {"summary": (1, 0)}
    for accepted in (False, True, False):
        tierwise.feedback(signed, accepted=accepted)
    assert counted(tmp_path) == {"summary": (0, 1)}
    tierwise.feedback(signed, accepted=False)
    assert counted(tmp_path) == {"summary": (0, 1)}
    with tierwise.open_store(tmp_path / "mine.db") as store:
        assert len(list(store.feedback())) == 1


def test_a_receipt_of_another_store_counts_for_its_own_call_alone(
    signed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same key a store takes a verdict on a call that it never saw, once, and no call of its own changes."""
    tierwise.shutdown()
    monkeypatch.setenv("TIERWISE_STORE", str(tmp_path / "theirs.db"))
    client, _ = sync_client(chat())
    with client:
        tierwise.instrument(client, store=tmp_path / "theirs.db")
        with tierwise.task("theirs"):
            client.chat.completions.create(**ASK)
        for _ in range(3):
            tierwise.feedback(signed, accepted=False)
        assert counted(tmp_path, "theirs.db") == {"theirs": (0, 0), "summary": (0, 1)}
        monkeypatch.setenv("TIERWISE_RECEIPT_KEY", OTHER)
        tierwise.shutdown()
        tierwise.instrument(client, store=tmp_path / "theirs.db")
        with pytest.raises(tierwise.ReceiptError, match="signature is wrong"):
            tierwise.feedback(signed, accepted=True)
        assert counted(tmp_path, "theirs.db") == {"theirs": (0, 0), "summary": (0, 1)}
