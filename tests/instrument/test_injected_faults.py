"""Each function inside tierwise raises in turn: what the application gets is what the bare client gives."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator

import pytest

from support.call_kinds import Kind
from support.fault_trials import Fault, Trials
from support.faults import BOUNDARY, KINDS, PACKAGES, Injected, by_chance
from tierwise.core.ports import Recorder

pytestmark = pytest.mark.faults

CALLS_EACH = 3


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    """All kinds of calls, made with a bare and an instrumented client already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TIERWISE_RAISE", raising=False)
        patch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "span_and_event")
        logging.getLogger("tierwise").setLevel(logging.CRITICAL)
        try:
            made = Trials(tmp_path_factory.mktemp("faults"), every_exchange=False)
            yield made
            made.close()
        finally:
            logging.getLogger("tierwise").setLevel(logging.NOTSET)


@pytest.fixture(autouse=True)
def _as_in_production(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIERWISE_RAISE", raising=False)
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "span_and_event")


def test_nothing_differs_without_faults(trials: Trials) -> None:
    """The kinds of calls are the same every time, so that a difference is a fault's doing."""
    assert trials.different == []


@pytest.mark.parametrize("package", [name for name in PACKAGES if name != "runtime"])
def test_a_function_that_raises_is_not_noticed(trials: Trials, package: str) -> None:
    """Every function that runs during a call raises, always and by chance: results, exceptions and chunks are equal."""
    different: list[str] = []
    names = [name for name in trials.run_by if name.startswith(f"tierwise.{package}.") and name not in BOUNDARY]
    trials.faults.raised_by.clear()
    for number, name in enumerate(sorted(names)):
        drawn = random.Random(name)  # noqa: S311
        run_by = trials.run_by[name]
        for turn, kind in enumerate(drawn.sample(run_by, min(CALLS_EACH, len(run_by)))):
            raises = by_chance(number, 0.5 if turn == 1 else 1.0)
            fault = Fault(place=trials.faults.injectable[name], raises=raises, kind=drawn.choice(KINDS))
            different += trials.differences(kind, fault)
    assert different == []
    silent = set(names) - trials.faults.raised_by
    assert len(silent) <= len(names) // 10 + 1, silent  # on another path this time, or in another thread's turn


def test_a_fault_in_what_deals_with_a_fault_is_not_noticed(trials: Trials) -> None:
    """What runs only where something failed raises as well, on top of the first fault."""
    different: list[str] = []
    names = [name for name in trials.run_after if name not in BOUNDARY]
    for name in names:
        for kind, first in trials.run_after[name][:CALLS_EACH]:
            both = (first, trials.faults.injectable[name])
            different += trials.differences(kind, *(_always(place) for place in both))
    assert different == []
    assert "tierwise.instrument.observation.Observation._finish_plainly" in names


def _always(place: object) -> Fault:
    return Fault(place=place, raises=lambda: True, kind=Injected)  # type: ignore[arg-type]


def _kind(trials: Trials, name: str) -> Kind:
    return next(kind for kind in trials.kinds if kind.name == name)


def test_the_injector_finds_and_reaches_what_there_is(trials: Trials) -> None:
    """Hundreds of functions in all packages; a fault in one is raised where it runs, counted, and put back."""
    assert {place.package for place in trials.faults.places.values()} == set(PACKAGES)
    assert len(trials.faults.places) > 800
    assert len(set(trials.run_by) - set(BOUNDARY)) > 250
    assert len(trials.run_by.keys() & set(BOUNDARY)) > 40
    place = trials.faults.injectable["tierwise.instrument.judging.judge_reading"]
    before, code = trials.faults.raised, place.functions[0].__code__
    assert trials.differences(_kind(trials, "openai-chat-plain sync"), _always(place)) == []
    assert trials.faults.raised == before + 1
    assert place.functions[0].__code__ is code


def test_a_fault_that_shows_is_reported(trials: Trials) -> None:
    """A boundary function that raises is noticed: the comparison would see a fault that comes through."""
    for name in ("stainless._sync_request.<locals>.request", "entering.leave", "context.Task.__exit__"):
        place = trials.faults.places[f"tierwise.instrument.{name}"]
        (difference, *_) = trials.differences(_kind(trials, "openai-chat-plain sync"), _always(place))
        assert "Injected" in difference


def test_a_fault_is_counted_and_raised_only_on_request(trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tierwise.internal.errors` counts it; with `TIERWISE_RAISE=1` the same fault reaches the caller."""
    assert "TIERWISE_RAISE" not in os.environ
    told: list[tuple[str, BaseException]] = []
    place = trials.faults.injectable["tierwise.instrument.judging.judge_reading"]
    kind = _kind(trials, "openai-chat-plain sync")

    def listening(target: object) -> object:
        observed = trials.setting.instrument(target)
        recorder: Recorder = observed.__dict__["_tierwise"].recorder
        bare = recorder.internal_error

        def internal_error(_: object, where: str, fault: BaseException) -> None:
            told.append((where, fault))
            bare(where, fault)

        monkeypatch.setattr(type(recorder), "internal_error", internal_error)
        trials.faults.arm(place)
        return observed

    try:
        assert kind.make(listening) == trials.expected[kind.name]["found"]
        ((where, fault),) = told
        assert (where, type(fault)) == ("answered", Injected)
        monkeypatch.setenv("TIERWISE_RAISE", "1")
        assert kind.make(listening)["error"]["type"] == "Injected"
    finally:
        trials.faults.disarm()


def test_every_boundary_is_there_and_has_its_reason(trials: Trials) -> None:
    """The list of functions that may not raise names none that is gone."""
    assert set(BOUNDARY) <= set(trials.faults.places)
    assert all(BOUNDARY.values())
