"""What a response carries so that a receipt can be made of it later: one private attribute, of no weight until then."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING, Any, Final

from tierwise.core.errors import ReceiptError, TierwiseError

if TYPE_CHECKING:
    from tierwise.core.call import Call
    from tierwise.core.ports import Recorder
    from tierwise.core.receipt import Receipt
    from tierwise.instrument.observation import Observation
    from tierwise.instrument.runstate import RunState

ATTRIBUTE: Final = "_tierwise_receipt"
"""A private attribute: pydantic leaves it out of dumps, comparisons and representations."""
KEY_VARIABLE: Final = "TIERWISE_RECEIPT_KEY"
_new: Final = object.__new__
_beside: Final[dict[int, tuple[weakref.ref[Any], Mark | None]]] = {}
"""Marks of responses that are not pydantic's, by identity, as long as the responses live."""
_INNER: Final = ("_raw_stream", "_self_watch")
"""Where a helper's stream, or a stand-in for a stream of another make, keeps what it reads from."""


class Mark:
    """The call behind a response, once it has ended. Pickled it is the receipt's text, so nobody needs tierwise to load it."""

    __slots__ = ("call", "late", "recorder", "run")  # set by `fill`: a constructor would cost as much as all the rest

    call: Call | None
    run: RunState | None
    recorder: Recorder
    late: Observation | None
    """Of a call that ended before prices were there: who can price it."""

    def receipt(self) -> Receipt:
        """The receipt as of now. Waits for the catalogue when the call ended before it was loaded.

        Raises:
            ReceiptError: the call has not ended.
        """
        from tierwise.core.receipt import receipt_of

        call = self.call
        if call is None:
            raise ReceiptError("the answer has not been read to its end; ask for its receipt after the last chunk")
        late, self.late = self.late, None
        if late is not None:
            call = self.call = late.priced(call)
        run = self.run
        if call.context.run_id is None or run is None:
            return receipt_of(call)
        return receipt_of(call, run.so_far(), run_started_at_ns=run.started_at_ns, ended=run.ended)

    def text(self) -> str:
        """The receipt as a text, signed when there is a key."""
        from tierwise.core.receipt import receipt_keys, write_receipt

        return write_receipt(self.receipt(), receipt_keys(os.environ.get(KEY_VARIABLE)))

    def __copy__(self) -> Mark:
        return self

    def __deepcopy__(self, memo: object) -> Mark:
        return self

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        try:
            return str, (self.text(),)
        except TierwiseError:
            return str, ("",)


def fill(observation: Observation, call: Call | None, late: Observation | None) -> None:
    """Write a call into the mark that its response carries, or is about to carry."""
    mark = observation.mark
    if mark is None:
        mark = observation.mark = _new(Mark)
        mark.recorder = observation.hook.recorder
    mark.call = call
    mark.run = observation.run
    mark.late = late


def put(response: Any, observation: Observation) -> None:
    """Let a response carry its mark; what takes no attribute goes without one. Never raises."""
    try:
        if observation.mark is None:  # it goes on after the request returned
            fill(observation, None, None)
        response.__dict__[ATTRIBUTE] = observation.mark
    except Exception:  # noqa: BLE001, S110 - text, bytes, a generator
        pass


def put_beside(response: Any, observation: Observation) -> None:
    """As `put`, for a response of any make: beside it, where an attribute might show in its dumps or comparisons."""
    try:
        if hasattr(type(response), "__pydantic_fields__"):
            put(response, observation)
            return
        if observation.mark is None:
            fill(observation, None, None)
        place = id(response)
        _beside[place] = (weakref.ref(response, lambda _: _beside.pop(place, None)), observation.mark)
    except Exception:  # noqa: BLE001, S110 - what takes no weak reference goes without one
        pass


def found_on(response: object) -> Mark | str | None:
    """The mark of a response, its text when the response was pickled in between; `None` where there is none."""
    beside = _beside.get(id(response))
    if beside is not None and beside[0]() is response:
        return beside[1]
    for holder in (response, *(getattr(response, name, None) for name in _INNER)):
        carried = getattr(holder, "__dict__", None)
        mark = carried.get(ATTRIBUTE) if isinstance(carried, dict) else None
        if mark is None and holder is not response:
            mark = getattr(getattr(holder, "observation", None), "mark", None)
        if isinstance(mark, Mark) or (isinstance(mark, str) and mark):
            return mark
    return None
