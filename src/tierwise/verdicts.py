"""Receipts and feedback: what became of an answer, told now or days later, here or in another process."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tierwise import runtime
from tierwise.core.errors import ConfigError, ReceiptError
from tierwise.core.receipt import MAX_COMMENT, Receipt, Verdict, read_receipt, receipt_keys
from tierwise.instrument.marks import KEY_VARIABLE, Mark, found_on

if TYPE_CHECKING:
    from tierwise.core.ports import Recorder
    from tierwise.evidence.sqlite import SqliteStore

_REMEMBERED: Final = 65_536


class _Counted:
    """Verdicts that this process has counted, so that the same one again is not counted again; bounded."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[tuple[str, bool], None] = OrderedDict()

    def is_new(self, unit: str, accepted: bool) -> bool:
        """Whether this verdict on a call or run is given for the first time; it is remembered."""
        with self._lock:
            if (unit, accepted) in self._known:
                self._known.move_to_end((unit, accepted))
                return False
            self._known[unit, accepted] = None
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
            return True


_counted: Final = _Counted()


def receipt_text(response: Any) -> str:
    """The receipt of a response; see `tierwise.receipt`."""
    mark = _mark_on(response)
    return mark if isinstance(mark, str) else mark.text()


def give_feedback(
    receipt: Any,
    *,
    accepted: bool | None = None,
    score: float | None = None,
    comment: str | None = None,
    store: str | Path | SqliteStore | None = None,
    known: Callable[[Receipt], bool] | None = None,
) -> Receipt:
    """Record a verdict; see `tierwise.feedback`. Returns what it is about.

    `known` says of a receipt that this verdict on it has been given before, which the metrics then leave out.
    """
    if accepted is not None and not isinstance(accepted, bool):
        raise ConfigError(f"accepted must be True or False, got {accepted!r}")
    if score is not None and (
        isinstance(score, bool)
        or not isinstance(score, (int, float))
        or not math.isfinite(score)
        or not 0 <= score <= 1
    ):
        raise ConfigError(f"score must be a number from 0 to 1, got {score!r}")
    if comment is not None and not isinstance(comment, str):
        raise ConfigError(f"comment must be text, got {type(comment).__name__}")
    if accepted is None and score is None and comment is None:
        raise ConfigError("feedback says nothing; pass accepted=True or False, score= or comment=")
    found, recorder = _receipt_in(receipt)
    if store is not None or recorder is None:
        recorder = runtime.recorder_for(store)
    verdict = Verdict(
        receipt=found,
        accepted=accepted,
        score=None if score is None else float(score),
        comment=None if comment is None else comment[:MAX_COMMENT],
        at_ns=time.time_ns(),
    )
    counted = accepted is not None and _counted.is_new(found.unit, accepted) and (known is None or not known(found))
    recorder.feedback(verdict, counted=counted)
    return found


def _receipt_in(given: Any) -> tuple[Receipt, Recorder | None]:
    """What a verdict is about, and who records it: the client's own recorder where the response itself is given."""
    mark = given if isinstance(given, str) else _mark_on(given)
    if isinstance(mark, Mark):
        return mark.receipt(), mark.recorder
    keys = receipt_keys(os.environ.get(KEY_VARIABLE))
    return read_receipt(mark, keys=keys, now_s=time.time()), None


def _mark_on(response: Any) -> Mark | str:
    mark = found_on(response)
    if mark is None:
        raise ReceiptError(
            f"this {type(response).__name__} has no receipt: pass the response, raw response or stream that a client "
            "instrumented with tierwise.instrument() returned"
        )
    return mark
