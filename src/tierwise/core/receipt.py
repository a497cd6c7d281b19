"""Receipts: a short text that says which call a later verdict is about, and the verdict itself.

A receipt is `tw1.PAYLOAD` or, signed, `tw1.PAYLOAD.SIGNATURE`: base64url of a JSON list, and of an HMAC over all before it.
"""

from __future__ import annotations

import hmac
import json
import math
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final, get_args

from tierwise.core.call import Arm, Call, Grade, Run
from tierwise.core.errors import ConfigError, ReceiptError
from tierwise.core.evidence import Key, bucket_of
from tierwise.core.records import dataclass

VERSION: Final = "tw1"
MAX_CHARS: Final = 4096
"""Longer texts are no receipts and are not looked at."""
MAX_COMMENT: Final = 2_000
LIFETIME_S: Final = 90 * 86_400
"""How long after its call a receipt is taken, seconds."""
MIN_KEY_BYTES: Final = 16
_SKEW_S: Final = 86_400
_SIGNATURE_BYTES: Final = 16
_DOMAIN: Final = b"tierwise receipt\x00"
_MAX_NAME: Final = 400
_ARMS: Final[tuple[str, ...]] = get_args(Arm)
_GRADES: Final[tuple[str, ...]] = get_args(Grade)


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What a verdict is about: a call that is its own run, or a run of several calls, and the span to link to.

    Task to round are those of the evidence of the run (`core.evidence.Key`), times Unix nanoseconds, money USD. The span and
    the response are those of the call whose answer was judged. `succeeded` and `cost_usd` are what the evidence counts for
    the run; while it goes on (`settled` is false) they are what is known so far.
    """

    task: str
    candidate: str
    epoch: str
    arm: Arm
    rung: int
    grade: Grade
    session: str = ""
    round: int = -1
    started_at_ns: int
    provider: str = ""
    run_id: str | None = None
    response_id: str | None = None
    trace_id: int = 0
    span_id: int = 0
    succeeded: bool = False
    cost_usd: float | None = None
    settled: bool = True

    @property
    def key(self) -> Key:
        """Where the verdict belongs in the evidence."""
        return Key(
            task=self.task,
            candidate=self.candidate,
            epoch=self.epoch,
            arm=self.arm,
            rung=self.rung,
            grade=self.grade,
            bucket=bucket_of(self.started_at_ns),
            session=self.session,
            round=self.round,
        )

    @property
    def unit(self) -> str:
        """The name of what is judged: the same for every receipt of one call, and for all calls of one run."""
        if self.run_id is not None:
            return unit_of_run(self.task, self.run_id, self.started_at_ns)
        return _digest("call", self.task, self.candidate, self.started_at_ns, self.span_id, self.response_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a user, or the application in his place, said of an answer. `score` is in [0, 1], `at_ns` in Unix nanoseconds.

    What is `None` leaves an earlier verdict's as it was.
    """

    receipt: Receipt
    accepted: bool | None = None
    score: float | None = None
    comment: str | None = None
    at_ns: int = 0


def unit_of_run(task: str, run_id: str, started_at_ns: int) -> str:
    """The name under which verdicts on a run are kept."""
    return _digest("run", task, run_id, started_at_ns)


def _digest(*parts: object) -> str:
    text = json.dumps(parts, separators=(",", ":"))
    return blake2b(text.encode(), digest_size=16).hexdigest()


def receipt_of(call: Call, run: Run | None = None, *, run_started_at_ns: int = 0, ended: bool = True) -> Receipt:
    """The receipt of a finished call: of the call alone, or of the run that it belongs to.

    Args:
        call: the call whose answer is judged.
        run: of a call with a run id, its run as far as it is known; `None` while not even its first call is.
        run_started_at_ns: when such a run began.
        ended: whether `run` is complete.
    """
    linked: dict[str, Any] = {
        "response_id": None if call.answer.id is None else _plain(call.answer.id)[:_MAX_NAME],
        "trace_id": call.trace_id,
        "span_id": call.span_id,
    }
    if call.context.run_id is None or run is None:
        alone = call.context.run_id is None
        return Receipt(
            task=_plain(call.task),
            candidate=_plain(call.candidate),
            epoch=call.epoch,
            arm=call.arm,
            rung=call.rung if alone else 0,
            grade=call.grade,
            session=call.context.session,
            round=call.context.round,
            started_at_ns=call.started_at_ns if alone else run_started_at_ns,
            provider=call.request.provider,
            run_id=None if call.context.run_id is None else _plain(call.context.run_id),
            succeeded=call.outcome == "success",
            cost_usd=None if call.cost is None else call.cost.amount_usd,
            settled=alone,
            **linked,
        )
    return Receipt(
        task=_plain(run.task),
        candidate=_plain(run.candidate),
        epoch=run.epoch,
        arm=run.arm,
        rung=0,
        grade=run.grade,
        session=run.session,
        round=run.round,
        started_at_ns=run.started_at_ns,
        provider=run.provider,
        run_id=_plain(run.run_id),
        succeeded=run.success,
        cost_usd=run.cost_usd,
        settled=ended,
        **linked,
    )


def _plain(text: str) -> str:
    """The text as the store keeps it: lone surrogates replaced."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


# --- keys --------------------------------------------------------------------------------------------------------


def receipt_keys(text: str | None) -> tuple[bytes, ...]:
    """The keys in the value of `TIERWISE_RECEIPT_KEY`: the first signs, all are accepted; none when it is empty.

    Raises:
        ConfigError: one of them is so short that it could be guessed from a receipt.
    """
    keys = tuple(key.encode("utf-8", "surrogateescape") for key in (text or "").split())
    if any(len(key) < MIN_KEY_BYTES for key in keys):
        raise ConfigError(
            f"TIERWISE_RECEIPT_KEY: a key needs at least {MIN_KEY_BYTES} characters, or it can be guessed from a receipt; "
            "make one with `openssl rand -hex 32`"
        )
    return keys


def _signature(key: bytes, signed: str) -> bytes:
    return hmac.digest(key, _DOMAIN + signed.encode("ascii"), "sha256")[:_SIGNATURE_BYTES]


# --- writing and reading -----------------------------------------------------------------------------------------


def write_receipt(receipt: Receipt, keys: Sequence[bytes] = ()) -> str:
    """The receipt as text, signed with the first key.

    Raises:
        ReceiptError: a name in it is longer than a receipt holds.
    """
    for name in ("task", "candidate", "session", "provider", "run_id"):
        value = getattr(receipt, name)
        if value is not None and len(value) > _MAX_NAME:
            raise ReceiptError(f"no receipt: the call's {name} has more than {_MAX_NAME} characters; use a shorter one")
    cost = receipt.cost_usd
    values = (
        receipt.task,
        receipt.candidate,
        receipt.epoch,
        _ARMS.index(receipt.arm),
        receipt.rung,
        _GRADES.index(receipt.grade),
        receipt.session,
        receipt.round,
        receipt.started_at_ns,
        receipt.provider,
        receipt.run_id,
        receipt.response_id,
        f"{receipt.trace_id:032x}" if receipt.trace_id else "",
        f"{receipt.span_id:016x}" if receipt.span_id else "",
        int(receipt.succeeded),
        cost if cost is not None and math.isfinite(cost) and cost >= 0 else None,
        int(receipt.settled),
    )
    text = f"{VERSION}.{_encoded(json.dumps(values, ensure_ascii=False, separators=(',', ':')).encode())}"
    if keys:
        text = f"{text}.{_encoded(_signature(keys[0], text))}"
    if len(text) > MAX_CHARS:
        raise ReceiptError("no receipt: the names of the call are too long for one; use shorter task names or run ids")
    return text


def read_receipt(text: str, *, keys: Sequence[bytes] = (), now_s: float) -> Receipt:
    """The receipt in a text, which may come from anybody.

    With keys an unsigned or wrongly signed text is refused, compared in constant time; without one a signed text is
    refused as well, since nobody here can tell whether it is genuine.

    Raises:
        ReceiptError: it is no receipt, is not signed as it must be, or is too old (`LIFETIME_S`).
    """
    if not isinstance(text, str) or len(text) > MAX_CHARS or not text.isascii():
        raise ReceiptError("this is no receipt; pass what tierwise.receipt(response) returned, unchanged")
    parts = text.strip().split(".")
    if len(parts) not in (2, 3) or parts[0] != VERSION:
        raise ReceiptError(
            "this is no receipt of this version; pass what tierwise.receipt(response) returned, unchanged"
        )
    _check_signature(f"{parts[0]}.{parts[1]}", parts[2] if len(parts) == 3 else None, keys)
    try:
        values = json.loads(_decoded(parts[1]).decode("utf-8"), parse_constant=_no_constant)
        receipt = _receipt(values)
    except (ValueError, TypeError, IndexError, RecursionError):
        raise ReceiptError(
            "the receipt is damaged or cut; pass what tierwise.receipt(response) returned, unchanged"
        ) from None
    age_s = now_s - receipt.started_at_ns / 1e9
    if age_s > LIFETIME_S:
        raise ReceiptError(
            f"the receipt is {age_s / 86_400:.0f} days old; verdicts are taken for {LIFETIME_S // 86_400} days after a call"
        )
    if age_s < -_SKEW_S:
        raise ReceiptError("the receipt is from the future; check the clocks of both machines")
    return receipt


def _check_signature(signed: str, signature: str | None, keys: Sequence[bytes]) -> None:
    if not keys:
        if signature is not None:
            raise ReceiptError(
                "the receipt is signed and no key is set here; set TIERWISE_RECEIPT_KEY as where it was made"
            )
        return
    if signature is None:
        raise ReceiptError(
            "the receipt is not signed; set TIERWISE_RECEIPT_KEY where receipts are made as well, older ones are refused"
        )
    try:
        given = _decoded(signature)
    except ValueError:
        given = b""
    genuine = False
    for key in keys:  # all of them, so that the time tells nothing
        genuine |= hmac.compare_digest(_signature(key, signed), given)
    if not genuine:
        raise ReceiptError(
            "the receipt's signature is wrong: it was changed, or signed with another TIERWISE_RECEIPT_KEY"
        )


def _encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decoded(text: str) -> bytes:
    data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if _encoded(data) != text:  # one receipt, one text
        raise ValueError("not base64url")
    return data


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _receipt(values: Any) -> Receipt:
    if not isinstance(values, list) or len(values) != 17:
        raise ValueError("it does not hold the 17 values of a receipt")
    cost = values[15]
    if cost is not None:
        if isinstance(cost, bool) or not isinstance(cost, (int, float)) or not 0 <= cost < 1e9:
            raise ValueError("its cost is no amount")
        cost = float(cost)
    run_id, response_id = values[10], values[11]
    return Receipt(
        task=_name(values[0], least=1),
        candidate=_name(values[1]),
        epoch=_name(values[2]),
        arm=_ARMS[_whole(values[3], len(_ARMS) - 1)],  # type: ignore[arg-type]
        rung=_whole(values[4], 1_000),
        grade=_GRADES[_whole(values[5], len(_GRADES) - 1)],  # type: ignore[arg-type]
        session=_name(values[6]),
        round=_whole(values[7], 1 << 31, least=-1),
        started_at_ns=_whole(values[8], (1 << 63) - 1),
        provider=_name(values[9]),
        run_id=None if run_id is None else _name(run_id),
        response_id=None if response_id is None else _name(response_id),
        trace_id=_hexadecimal(values[12], 32),
        span_id=_hexadecimal(values[13], 16),
        succeeded=bool(_whole(values[14], 1)),
        cost_usd=cost,
        settled=bool(_whole(values[16], 1)),
    )


def _name(value: Any, *, least: int = 0) -> str:
    if not isinstance(value, str) or not least <= len(value) <= _MAX_NAME:
        raise ValueError("a name in it is too long or no text")
    value.encode("utf-8")  # raises for a lone surrogate
    return value


def _whole(value: Any, most: int, *, least: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError("a number in it is out of bounds")
    return value


def _hexadecimal(value: Any, digits: int) -> int:
    if value == "":
        return 0
    if not isinstance(value, str) or len(value) != digits or set(value) - set("0123456789abcdef"):
        raise ValueError("an id in it is no hexadecimal number")
    return int(value, 16)
