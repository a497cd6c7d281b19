"""One stored call as a typed row, and the way from `Call` to row and back."""

from __future__ import annotations

import functools
import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, field, fields, replace
from itertools import compress, groupby
from typing import Any, Final, cast

from tierwise.core.call import Answer, Arm, Call, CheckResult, Grade, Request, Risk, Run, TaskContext, Try, Usage
from tierwise.core.cost import Cost, CostSource
from tierwise.core.records import dataclass, maker

_BIGGEST: Final = 2**63
_TOKEN_FIELDS: Final = tuple(one.name for one in fields(Usage) if one.name.endswith("_tokens"))


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRow:
    """One recorded call: seconds, USD, Unix nanoseconds; `None` where nothing was reported. Never any content."""

    id: int = 0
    started_at_ns: int
    task: str
    candidate: str
    epoch: str
    arm: Arm
    rung: int
    grade: Grade
    outcome: str
    provider: str
    operation: str
    api_type: str | None
    server_address: str | None
    server_port: int | None
    request_model: str
    response_model: str | None
    response_id: str | None
    service_tier: str | None
    system_fingerprint: str | None
    stream: bool
    expects_json: bool
    """The request, the task or its policy expected JSON."""
    temperature: float | None
    max_tokens: int | None
    choice_count: int | None
    duration_s: float
    time_to_first_chunk_s: float | None
    time_per_output_chunk_s: float | None
    chunks: int
    last_try_s: float | None
    retries: int
    backoff_s: float
    error_type: str | None
    json_form: str | None
    advice: str | None
    output_chars: int
    input_tokens: int | None
    output_tokens: int | None
    cache_read_tokens: int | None
    cache_write_tokens: int | None
    reasoning_tokens: int | None
    input_audio_tokens: int | None
    output_audio_tokens: int | None
    cost_usd: float | None
    cost_source: str | None
    risk: Risk | None
    prompt_version: str | None
    run_id: str | None
    route_version: int | None
    propensity: float | None
    session: str
    round: int
    trace_id: str
    """32 hex digits, empty without a span."""
    span_id: str
    """16 hex digits, empty without a span."""
    finish_reasons: tuple[str, ...] = ()
    checks: tuple[CheckResult, ...] = ()
    failed_tries: tuple[Try, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def json_valid(self) -> bool | None:
        """Whether the answer was plain JSON; `None` where no JSON was expected."""
        return None if self.json_form is None else self.json_form == "plain"

    def to_json(self) -> dict[str, object]:
        """The row as plain JSON values under its column names."""
        return asdict(self) | {"json_valid": self.json_valid}

    def to_call(self) -> Call:
        """The call as it was recorded, without what is not stored (sampling parameters, the task's schema)."""
        return Call(
            request=Request(
                operation=self.operation,
                api_type=self.api_type,
                provider=self.provider,
                model=self.request_model,
                server_address=self.server_address,
                server_port=self.server_port,
                stream=self.stream,
                expects_json=self.expects_json,
                temperature=self.temperature,
                max_tokens=self.max_tokens,
                choice_count=self.choice_count,
            ),
            context=TaskContext(
                name=self.task,
                risk=self.risk,
                labels=self.labels,
                prompt_version=self.prompt_version,
                run_id=self.run_id,
                randomised=self.grade == "randomised",
                session=self.session,
                round=self.round,
            ),
            answer=Answer(
                id=self.response_id,
                model=self.response_model,
                finish_reasons=self.finish_reasons,
                service_tier=self.service_tier,
                system_fingerprint=self.system_fingerprint,
                output_chars=self.output_chars,
            ),
            outcome=self.outcome,
            candidate=self.candidate,
            epoch=self.epoch,
            started_at_ns=self.started_at_ns,
            duration_s=self.duration_s,
            error_type=self.error_type,
            usage=self._usage(),
            cost=None
            if self.cost_usd is None
            else Cost(amount_usd=self.cost_usd, source=cast(CostSource, self.cost_source)),
            json_form=self.json_form,
            expects_json=self.expects_json,
            checks=self.checks,
            advice=self.advice,
            retries=self.retries,
            backoff_s=self.backoff_s,
            last_try_s=self.last_try_s,
            failed_tries=self.failed_tries,
            time_to_first_chunk_s=self.time_to_first_chunk_s,
            time_per_output_chunk_s=self.time_per_output_chunk_s,
            chunks=self.chunks,
            arm=self.arm,
            rung=self.rung,
            route_version=self.route_version,
            propensity=self.propensity,
            trace_id=int(self.trace_id or "0", 16),
            span_id=int(self.span_id or "0", 16),
        )

    def _usage(self) -> Usage | None:
        if self.input_tokens is None and self.output_tokens is None:
            return None
        return Usage(
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cache_read_tokens=self.cache_read_tokens,
            cache_write_tokens=self.cache_write_tokens,
            reasoning_tokens=self.reasoning_tokens,
            input_audio_tokens=self.input_audio_tokens,
            output_audio_tokens=self.output_audio_tokens,
            # Not stored, since it follows: no other provider counts reasoning beside the output.
            reasoning_apart=self.provider == "x_ai" or (self.reasoning_tokens or 0) > (self.output_tokens or 0),
            provider_cost_usd=self.cost_usd if self.cost_source == "provider" else None,
        )


COLUMNS: Final = tuple(one.name for one in fields(CallRow) if one.name != "id")
_NO_USAGE: Final = Usage()


def _insert(table: str, columns: Sequence[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608 - names of ours


@functools.lru_cache(maxsize=256)
def _insert_call(present: tuple[bool, ...]) -> str:
    return _insert("calls", tuple(compress(COLUMNS, present)))


def insert_calls(connection: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> None:
    """Insert rows of calls, each without its empty columns: binding a NULL costs more than anything else about it."""
    for present, group in groupby(rows, key=lambda row: tuple([value is not None for value in row])):
        connection.executemany(_insert_call(present), (tuple(compress(row, present)) for row in group))


def insert_runs(connection: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> None:
    """Insert rows of runs."""
    connection.executemany(_INSERT_RUN, rows)


def call_values(call: Call) -> tuple[Any, ...]:
    """A call as the values of `COLUMNS`."""
    request, context, answer, usage, cost = call.request, call.context, call.answer, call.usage or _NO_USAGE, call.cost
    return (
        call.started_at_ns, context.name, call.candidate, call.epoch, call.arm, call.rung, call.grade, call.outcome,
        request.provider, request.operation, request.api_type, request.server_address, request.server_port,
        request.model, answer.model, answer.id, answer.service_tier or request.service_tier, answer.system_fingerprint,
        1 if request.stream else 0, 1 if call.expects_json or request.expects_json else 0, request.temperature,
        _bounded(request.max_tokens),
        _bounded(request.choice_count), call.duration_s, call.time_to_first_chunk_s, call.time_per_output_chunk_s,
        call.chunks, call.last_try_s, call.retries, call.backoff_s, call.error_type, call.json_form, call.advice,
        answer.output_chars, usage.input_tokens, usage.output_tokens, usage.cache_read_tokens, usage.cache_write_tokens,
        usage.reasoning_tokens, usage.input_audio_tokens, usage.output_audio_tokens,
        None if cost is None else cost.amount_usd, None if cost is None else cost.source, context.risk,
        context.prompt_version, context.run_id, call.route_version, call.propensity, context.session, context.round,
        f"{call.trace_id:032x}" if call.trace_id else "", f"{call.span_id:016x}" if call.span_id else "",
        _listed(answer.finish_reasons), _records(call.checks), _records(call.failed_tries),
        json.dumps(dict(context.labels)) if context.labels else "{}",
    )  # fmt: skip


def _bounded(value: int | None) -> int | None:
    return value if value is None or -_BIGGEST <= value < _BIGGEST else None


def _listed(values: Sequence[str]) -> str:
    return '["stop"]' if values == ("stop",) else json.dumps(values)


def _records(values: Sequence[CheckResult] | Sequence[Try]) -> str:
    return json.dumps([asdict(value) for value in values]) if values else "[]"


def clean_call(call: Call) -> Call:
    """The same call without token counts that no database integer holds."""
    if call.usage is None:
        return call
    counts: dict[str, Any] = {name: _bounded(getattr(call.usage, name)) for name in _TOKEN_FIELDS}
    return replace(call, usage=replace(call.usage, **counts))


def clean_values(values: Iterable[Any]) -> tuple[Any, ...]:
    """The same values with text that SQLite cannot encode (lone surrogates) replaced."""
    return tuple(
        value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value for value in values
    )


def call_row(values: Sequence[Any]) -> CallRow:
    """A row from the values of `id` and `COLUMNS`, as the database holds them."""
    found = dict(zip(_ROW_COLUMNS, values, strict=True))
    found["stream"], found["expects_json"] = bool(found["stream"]), bool(found["expects_json"])
    found["finish_reasons"] = _texts(found["finish_reasons"])
    # Most rows have none of these; parsing that would cost as much as all the rest of the row.
    for name, kind in _RECORD_COLUMNS:
        text = found[name]
        found[name] = () if text == "[]" else tuple(kind(**one) for one in json.loads(text))
    labels = found["labels"]
    found["labels"] = {} if labels == "{}" else json.loads(labels)
    return _make_row(**found)


@functools.lru_cache(maxsize=256)
def _texts(listed: str) -> tuple[str, ...]:
    return tuple(json.loads(listed))


_ROW_COLUMNS: Final = ("id", *COLUMNS)
_RECORD_COLUMNS: Final[tuple[tuple[str, type[Any]], ...]] = (("checks", CheckResult), ("failed_tries", Try))
_make_row: Final = maker(CallRow)
RUN_COLUMNS: Final = tuple(one.name for one in fields(Run))
SELECT_CALLS: Final = f"SELECT id, {', '.join(COLUMNS)} FROM calls"  # noqa: S608 - names of ours
SELECT_RUNS: Final = f"SELECT {', '.join(RUN_COLUMNS)} FROM runs"  # noqa: S608 - names of ours
_INSERT_RUN: Final = _insert("runs", RUN_COLUMNS)
OUTPUT_TOKENS: Final = (
    "SELECT task, output_tokens FROM (SELECT * FROM calls ORDER BY id DESC LIMIT 20000) WHERE output_tokens IS NOT NULL "
    "AND outcome NOT IN ('truncated', 'error', 'rejected', 'cancelled') AND arm <> 'shadow' AND session = '' ORDER BY id"
)


def output_tokens(rows: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    """What `OUTPUT_TOKENS` selects, by task and oldest first."""
    found: dict[str, list[int]] = {}
    for task, tokens in rows:
        found.setdefault(task, []).append(tokens)
    return found


def run_values(run: Run) -> tuple[Any, ...]:
    """A run as the values of `RUN_COLUMNS`."""
    return tuple(getattr(run, name) for name in RUN_COLUMNS)


def run_row(values: Sequence[Any]) -> Run:
    """A run from the values of `RUN_COLUMNS`."""
    found = dict(zip(RUN_COLUMNS, values, strict=True))
    found["success"], found["cleaned"] = bool(found["success"]), bool(found["cleaned"])
    return Run(**found)
