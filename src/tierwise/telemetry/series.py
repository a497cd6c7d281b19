"""The process's own sums behind the observable counters: rows by attribute tuple, with a bounded number of series."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final, Generic, TypeVar

from tierwise.core.call import Call, Run
from tierwise.telemetry import semconv as sc

Attributes = dict[str, str | bool | int | float]
K = TypeVar("K", bound=Hashable)
R = TypeVar("R")

TOKEN_KINDS: Final = ("input", "output", "cache_read", "cache_write", "reasoning")
SERIES_LIMIT: Final = 1900
"""The SDK folds everything over 2,000 attribute sets of an instrument into one; we stop before it does."""
_TEXT_LIMIT: Final = 256
COUNT_LIMIT: Final = 2**53


def clean(text: str) -> str:
    """A string that every exporter can encode: no lone surrogates, at most 256 characters."""
    if len(text) <= _TEXT_LIMIT and text.isascii():
        return text
    return text[:_TEXT_LIMIT].encode("utf-8", "replace").decode("utf-8")


def countable(value: int | None) -> int | None:
    """A token count that fits every exporter, or `None`: absent, negative and absurd counts are not recorded."""
    return value if value is not None and 0 <= value < COUNT_LIMIT else None


CallKey = tuple[str, str, str, str | None, str, str, int, str, str, str | None, bool]
"""Task, provider, candidate, response model, epoch, arm, rung, grade, outcome, JSON form, member of a run."""
RunKey = tuple[str, str, str, str, str, str, str, bool, bool]
"""Task, provider, candidate, epoch, arm, grade, outcome, success, cleaned."""
FeedbackKey = tuple[str, str, str, str, str, int, str, bool]
"""Task, provider, candidate, epoch, arm, rung, grade, accepted."""
GenAiKey = tuple[str, str, str, str | None, str | None, int | None, str | None]
"""Operation, provider, request model, response model, server address, server port, error type."""


class Series(Generic[K, R]):
    """Rows by key, at most about `limit`: after that the task becomes `other`, at last every free text does.

    `fold(key, step)` gives the key to use instead, step 0 first; `on_fold` is called for every look-up that was folded.
    """

    __slots__ = ("_fold", "_limit", "_make", "_on_fold", "_spare", "rows")

    def __init__(
        self, *, limit: int, make: Callable[[K], R], fold: Callable[[K, int], K], on_fold: Callable[[], None]
    ) -> None:
        self.rows: dict[K, R] = {}
        self._limit = limit
        self._spare = limit + max(1, limit // 32)
        self._make = make
        self._fold = fold
        self._on_fold = on_fold

    def row(self, key: K) -> R:
        """The row of a key, made or folded when it is new."""
        row = self.rows.get(key)
        return self._new(key) if row is None else row

    def _new(self, key: K) -> R:
        rows = self.rows
        if len(rows) >= self._limit:
            self._on_fold()
            key = self._fold(key, 0)
            if key not in rows and len(rows) >= self._spare:
                key = self._fold(key, 1)
        row = rows.get(key)
        if row is None:
            row = rows[key] = self._make(key)
        return row


def _present(pairs: tuple[tuple[str, str | bool | int | None], ...]) -> Attributes:
    return {name: value for name, value in pairs if value is not None}


class Cell:
    """One sum with its attributes; `value` is `None` until something was reported."""

    __slots__ = ("attributes", "value")

    def __init__(self, attributes: Attributes) -> None:
        self.attributes = attributes
        self.value: int | None = None


class CallRow:
    """Sums over the calls of one series; costs in USD."""

    __slots__ = (
        "attributes", "calls", "cost", "cost_squared", "histogram_attributes", "priced", "retried", "retries", "tokens",
    )  # fmt: skip

    def __init__(self, key: CallKey) -> None:
        task, provider, candidate, response_model, epoch, arm, rung, grade, outcome, form, member = key
        # The SDK pays for each attribute at each record, so the histograms carry what evidence needs and no more.
        self.histogram_attributes = _present((
            (sc.TASK, task), (sc.CANDIDATE, candidate), (sc.EPOCH, epoch), (sc.ARM, arm), (sc.RUNG, rung),
            (sc.GRADE, grade), (sc.OUTCOME, outcome),
        ))  # fmt: skip
        self.attributes = self.histogram_attributes | _present((
            (sc.PROVIDER_NAME, provider), (sc.RESPONSE_MODEL, response_model), (sc.JSON_FORM, form),
            (sc.RUN_MEMBER, member or None),
        ))  # fmt: skip
        self.calls = 0
        self.priced = 0
        self.cost = 0.0
        self.cost_squared = 0.0
        self.retries = 0
        self.retried = 0
        self.tokens: dict[str, Cell] = {}


class CheckRow:
    """Sums over one check's results on the first attempts and later rungs of one candidate."""

    __slots__ = ("attributes", "count", "score")

    def __init__(self, key: tuple[CallKey, str]) -> None:
        row = CallRow(key[0])
        self.attributes = row.attributes | {sc.CHECK_NAME: key[1]}
        del self.attributes[sc.OUTCOME]
        self.count = 0
        self.score = 0.0


class RunRow:
    """Sums over the runs of one series; costs in USD, durations in seconds."""

    __slots__ = ("attributes", "calls", "cost", "cost_squared", "duration_s", "escalated", "priced", "runs")

    def __init__(self, key: RunKey) -> None:
        task, provider, candidate, epoch, arm, grade, outcome, success, cleaned = key
        self.attributes = _present((
            (sc.TASK, task), (sc.PROVIDER_NAME, provider or None), (sc.CANDIDATE, candidate), (sc.EPOCH, epoch),
            (sc.ARM, arm), (sc.GRADE, grade), (sc.OUTCOME, outcome), (sc.RUN_SUCCESS, success), (sc.RUN_CLEANED, cleaned),
        ))  # fmt: skip
        self.runs = 0
        self.calls = 0
        self.escalated = 0
        self.priced = 0
        self.cost = 0.0
        self.cost_squared = 0.0
        self.duration_s = 0.0


class FeedbackRow:
    """Number of verdicts in one series."""

    __slots__ = ("attributes", "count")

    def __init__(self, key: FeedbackKey) -> None:
        task, provider, candidate, epoch, arm, rung, grade, accepted = key
        self.attributes = _present((
            (sc.TASK, task), (sc.PROVIDER_NAME, provider or None), (sc.CANDIDATE, candidate), (sc.EPOCH, epoch),
            (sc.ARM, arm), (sc.RUNG, rung), (sc.GRADE, grade), (sc.FEEDBACK_ACCEPTED, accepted),
        ))  # fmt: skip
        self.count = 0


class GenAiRow:
    """Attribute dictionaries of one series of the conventions' metrics, made once."""

    __slots__ = ("attributes", "duration_attributes", "input_attributes", "output_attributes")

    def __init__(self, key: GenAiKey) -> None:
        operation, provider, model, response_model, address, port, error_type = key
        self.attributes = _present((
            (sc.OPERATION_NAME, operation), (sc.PROVIDER_NAME, provider), (sc.REQUEST_MODEL, model),
            (sc.RESPONSE_MODEL, response_model), (sc.SERVER_ADDRESS, address), (sc.SERVER_PORT, port),
        ))  # fmt: skip
        self.duration_attributes = self.attributes | _present(((sc.ERROR_TYPE, error_type),))
        self.input_attributes = self.attributes | {sc.TOKEN_TYPE: sc.TOKEN_TYPE_INPUT}
        self.output_attributes = self.attributes | {sc.TOKEN_TYPE: sc.TOKEN_TYPE_OUTPUT}


def call_key(call: Call) -> CallKey:
    """The series of a call; free texts cleaned."""
    context = call.context
    model = call.answer.model
    return (
        clean(context.name), call.request.provider, clean(call.candidate), None if model is None else clean(model),
        call.epoch, call.arm, call.rung, call.grade, call.outcome, call.json_form, context.run_id is not None,
    )  # fmt: skip


def run_key(run: Run) -> RunKey:
    """The series of a run."""
    return (
        clean(run.task), run.provider, clean(run.candidate), run.epoch, run.arm, run.grade, run.outcome, run.success,
        run.cleaned,
    )  # fmt: skip


def gen_ai_key(call: Call, error_type: str | None) -> GenAiKey:
    """The series of a call in the conventions' metrics."""
    request = call.request
    model = call.answer.model
    return (
        request.operation, request.provider, clean(request.model), None if model is None else clean(model),
        request.server_address, request.server_port, error_type,
    )  # fmt: skip


def fold_call(key: CallKey, step: int) -> CallKey:
    """Task to `other`; then everything but the outcome."""
    if step == 0:
        return (sc.OTHER, *key[1:])
    return (sc.OTHER, sc.OTHER, sc.OTHER, sc.OTHER, sc.OTHER, "pinned", 0, "observational", key[8], None, False)


def fold_token(key: tuple[CallKey, str], step: int) -> tuple[CallKey, str]:
    """Like `fold_call`, the kind of token stays."""
    return (fold_call(key[0], step), key[1])


def fold_check(key: tuple[CallKey, str], step: int) -> tuple[CallKey, str]:
    """Like `fold_call`; the check becomes `other` with the rest."""
    return (fold_call(key[0], step), key[1] if step == 0 else sc.OTHER)


def fold_run(key: RunKey, step: int) -> RunKey:
    """Task to `other`; then everything but outcome and success."""
    if step == 0:
        return (sc.OTHER, *key[1:])
    return (sc.OTHER, sc.OTHER, sc.OTHER, sc.OTHER, "pinned", "observational", key[6], key[7], key[8])


def fold_feedback(key: FeedbackKey, step: int) -> FeedbackKey:
    """Task to `other`; then everything but the verdict."""
    if step == 0:
        return (sc.OTHER, *key[1:])
    return (sc.OTHER, sc.OTHER, sc.OTHER, sc.OTHER, "pinned", 0, "observational", key[7])


def fold_gen_ai(key: GenAiKey, step: int) -> GenAiKey:
    """Models to `other`; then everything, an error's kind included."""
    operation, provider, _, response_model, address, port, error_type = key
    if step == 0:
        return (operation, provider, sc.OTHER, response_model and sc.OTHER, address, port, error_type)
    return (operation, sc.OTHER, sc.OTHER, sc.OTHER, None, None, error_type and sc.ERROR_TYPE_OTHER)
