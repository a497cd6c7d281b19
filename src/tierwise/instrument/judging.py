"""What an observed call is judged by: the JSON, schema, tools and checks that request, task and policy expect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from tierwise.core.call import Call
from tierwise.core.outcome import OUTCOMES, Expectation, Judgement, judge, make_expectation, outcome_of_error
from tierwise.core.ports import SchemaCheck
from tierwise.instrument.dialects.base import Reading

if TYPE_CHECKING:
    from tierwise.instrument.observation import Observation

_SOONER_THAN_TRUNCATED: Final = OUTCOMES[: OUTCOMES.index("truncated")]
_CUT: Final = "the stream ended without a finish reason: the connection, or a gateway on the way, cut it"


def judge_reading(
    call: Observation, reading: Reading, error: BaseException | None, *, streamed: bool, abandoned: bool
) -> Judgement:
    """The outcome of a call from what was read of its answer and what the client raised."""
    if error is not None and (streamed or call.parsed is None):
        outcome = outcome_of_error(getattr(error, "status_code", None), not isinstance(error, Exception))
        return Judgement(outcome=outcome)
    if abandoned:
        return Judgement(outcome="cancelled")
    refused = reading.error_type is not None
    if refused or not call.dialect.expects_answer:
        return Judgement(outcome="error" if refused or error is not None else "success")
    wiring = call.hook.wiring
    judged = judge(reading.choices, expectation_of(call, reading), parse_json=wiring.parse_json, is_json=wiring.is_json)
    if reading.cut and judged.outcome not in _SOONER_THAN_TRUNCATED:
        return replace(judged, outcome="truncated", advice=_CUT)
    if error is not None and judged.outcome == "success":  # the client's own parser refused what we let pass
        return replace(judged, outcome="json_mismatch" if call.request.expects_json else "error")
    return judged


def json_expected(call: Observation) -> bool:
    """Whether request, task or, where the task says nothing, its policy expect JSON."""
    context = call.context
    if call.request.expects_json or context.expects == "json" or context.schema is not None:
        return True
    policy = call.hook.wiring.policy_for(context.name) if context.expects is None else None
    return policy is not None and (policy.expects == "json" or policy.schema is not None)


def expectation_of(call: Observation, reading: Reading) -> Expectation:
    """What the choices of an answer are held against."""
    context, hook, request = call.context, call.hook, call.request
    wiring = hook.wiring
    expects = call.expects_json
    schema: Mapping[str, object] | None = None
    if expects:
        schema = call.dialect.output_schema(call.body) if request.expects_json else None
        if context.schema is not None:
            schema = context.schema
        elif schema is None and context.expects is None:
            policy = wiring.policy_for(context.name)
            schema = None if policy is None else policy.schema
    checks = wiring.checks_for(context.name)
    tools: dict[str, SchemaCheck] = {}
    for choice in reading.choices:
        for made in choice.tool_calls:
            check = hook.schemas.check(call.dialect.tool_schema(call.body, made.name)) if made.json else None
            if check is not None:
                tools[made.name] = check
    if schema is None and not checks and not tools:
        return hook.plain_expectation(request.max_tokens, expects_json=expects)
    return make_expectation(
        expects_json=expects,
        schema=hook.schemas.check(schema) if expects else None,
        tools=tools,
        checks=checks,
        max_tokens=request.max_tokens,
    )


class LatePrice:
    """Prices a call on the worker and only then counts it into its run, whose cost and epoch depend on it."""

    __slots__ = ("_observation",)

    def __init__(self, observation: Observation) -> None:
        self._observation = observation

    def __call__(self, call: Call) -> Call:
        """The priced call; its run has it, whether pricing worked or not."""
        priced = call
        try:
            priced = self._observation.priced(call)
        finally:
            self.skip(priced)
        return priced

    def skip(self, call: Call) -> None:
        """Nobody will price this call: count it into its run as it is."""
        if self._observation.run is not None:
            self._observation.run.done(call)
