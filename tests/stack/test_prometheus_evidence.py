"""Evidence from a real Prometheus and a real VictoriaMetrics is that of SQLite, whatever the processes do."""

from __future__ import annotations

import json
import random
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from support import engines
from support.calls import make_call
from support.commands import tierwise
from support.engines import Engine
from support.fleet import Process, sender
from support.sameness import by_task, differences, mixed_calls, mixed_runs
from support.stack import Binaries
from tierwise.advisor import plan
from tierwise.core.evidence import HOUR_S
from tierwise.core.route import RouteTable
from tierwise.evidence.prometheus import SETTLE_S, PrometheusSource
from tierwise.evidence.prometheus_http import Access
from tierwise.evidence.sqlite import SqliteStore
from tierwise.surfaces.cli.source import names

pytestmark = pytest.mark.stack

NOW = int(time.time())
END = (NOW - SETTLE_S) // HOUR_S * HOUR_S
"""The end of the last hour that is read."""
HOURS = 14
START = END - HOURS * HOUR_S
BEFORE = START - 1800
"""In the hour before all that, for tests with traffic of their own."""
MODELS = ("small", "large")
TASKS = ("summary", 'odd "task" {|}\\n.*', "strict-json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Both:
    """A Prometheus and a VictoriaMetrics with the same traffic, and the store that has it too."""

    engines: tuple[Engine, Engine]
    store: Path

    def send(self) -> list[Callable[[bytes], None]]:
        """Where processes export to."""
        return [sender(one.otlp) for one in self.engines]


@pytest.fixture(scope="module")
def both(stack_binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """Fourteen hours of traffic of processes that start late, end early and pause, in three places."""
    folder = tmp_path_factory.mktemp("both")
    with (
        engines.prometheus(stack_binaries.prometheus, folder / "prometheus") as one,
        engines.victoria(stack_binaries.victoria_metrics, folder / "victoria") as other,
    ):
        made = Both(engines=(one, other), store=folder / "store.db")
        _traffic(made)
        engines.flush(other)
        yield made


def _traffic(made: Both) -> None:
    rng = random.Random(7)  # noqa: S311
    send = made.send()
    steady = Process(START - 3 * HOUR_S, send=send)
    late = Process(START + 5 * HOUR_S + 60, send=send)
    pausing = Process(START, send=send)
    with SqliteStore.open(made.store) as store:
        for hour in range(HOURS):
            begin = START + hour * HOUR_S
            running = [steady, *([late] if hour >= 5 else []), *([pausing] if hour < 4 or hour > 8 else [])]
            short = [Process(begin + 700 + place, send=send) for place in range(2)]
            for process in (*running, *short):
                for task in TASKS:
                    items = mixed_calls(rng, task, begin + 620, 4, models=MODELS)
                    runs = mixed_runs(rng, task, begin + 630, 2, models=MODELS)
                    process.record(*items, *runs)
                    store.write([*items, *runs])
            for process in short:
                process.export(begin + 900)
                process.end()
            for minute in (16, 30, 59):
                for place, process in enumerate(running):
                    process.export(begin + 60 * minute + place)
    for process in (steady, late, pausing):
        process.end()


def _source(engine: Engine, **options: object) -> PrometheusSource:
    return PrometheusSource(Access(url=engine.url), names(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("which", [0, 1], ids=["prometheus", "victoriametrics"])
def test_counters_give_the_evidence_of_the_store(both: Both, which: int) -> None:
    """Hour by hour, series by series: counts and tokens equal, money within 1e-9, from the counters alone."""
    with SqliteStore.open(both.store, read_only=True) as store:
        wanted = by_task(store.evidence_by_task(START, END))
    with _source(both.engines[which], recorded="never") as source:
        found = by_task(source.evidence_by_task(START, END))
    assert sorted(found) == sorted(TASKS)
    assert [line for task in TASKS for line in differences(wanted[task], found[task])] == []
    assert source.notes == []


@pytest.mark.parametrize("which", [0, 1], ids=["prometheus", "victoriametrics"])
def test_the_same_traffic_gives_the_same_recommendation(both: Both, which: int) -> None:
    """All of a plan is the same but the hash of its inputs; of money the tenth digit may be rounded the other way."""
    with SqliteStore.open(both.store, read_only=True) as store:
        wanted = plan(store.evidence_by_task(START, END), None, RouteTable(), NOW).to_json()
    with _source(both.engines[which]) as source:
        found = plan(source.evidence_by_task(START, END), None, RouteTable(), NOW).to_json()
    for document in (wanted, found):
        for item in document["recommendations"]:
            assert item.pop("input_hash")
    assert _told(found) == _told(wanted)
    assert _numbers(found) == pytest.approx(_numbers(wanted), rel=1e-9)


def _told(document: object) -> str:
    """Every byte of a document, in place of each fraction a mark."""
    return json.dumps(json.loads(json.dumps(document), parse_float=lambda _: "fraction"))


def _numbers(document: object) -> list[float]:
    """The fractions of a document in their order."""
    found: list[float] = []
    json.loads(json.dumps(document), parse_float=lambda text: found.append(float(text)))
    return found


def test_the_recording_rules_of_prometheus_write_what_the_counters_say(both: Both) -> None:
    """Every rule but that of feedback, which nothing sends here, records; the hour then read from there is the store's."""
    engine, deadline = both.engines[0], time.monotonic() + 40
    text = (engines.SHIPPED / "rules" / "evidence.yml").read_text("utf-8").replace("interval: 30m", "interval: 5s")
    wanted_names = {rule["record"] for rule in _rules("rules")} - {"tierwise:feedback:hour"}
    found_names: set[str] = set()
    with engines.evaluating(engine, text):
        while not wanted_names <= found_names and time.monotonic() < deadline:
            time.sleep(0.5)
            found_names = {one["metric"]["__name__"] for one in _query(engine, '{__name__=~"tierwise:.+"}')}
    assert wanted_names <= found_names
    with SqliteStore.open(both.store, read_only=True) as store:
        wanted = by_task(store.evidence_by_task(START, END))
    with _source(engine) as source:
        found = by_task(source.evidence_by_task(START, END))
    assert [line for task in TASKS for line in differences(wanted[task], found[task])] == []
    assert source.notes == [f"1 hour(s) from recording rules, {HOURS - 1} from the counters themselves"]


def test_the_recording_rules_of_vmalert_write_what_the_counters_say(both: Both) -> None:
    """Every hour as vmalert would record it, evaluated by the server itself, gives the store's evidence."""
    engine = both.engines[1]
    lines = []
    for rule in _rules("vmalert"):
        first = START + HOUR_S + SETTLE_S + 300
        found = _query(engine, rule["expr"], first, first + (HOURS - 1) * HOUR_S)
        assert found or rule["record"] == "tierwise:feedback:hour"
        for one in found:
            labels, (times, values) = {**one["metric"], "__name__": rule["record"]}, zip(*one["values"], strict=True)
            lines.append(
                {"metric": labels, "values": list(map(float, values)), "timestamps": [1000 * at for at in times]}
            )
    body = "\n".join(map(json.dumps, lines)).encode()
    with urllib.request.urlopen(urllib.request.Request(engine.url + "/api/v1/import", body), timeout=60) as response:  # noqa: S310
        response.read()
    engines.flush(engine)
    with SqliteStore.open(both.store, read_only=True) as store:
        wanted = by_task(store.evidence_by_task(START, END))
    with _source(engine) as source:
        by_record = by_task(source.evidence_by_task(START, END))
    assert [line for task in TASKS for line in differences(wanted[task], by_record[task])] == []
    assert source.notes == [f"{HOURS} hour(s) from recording rules, 0 from the counters themselves"]


@pytest.mark.parametrize("which", [0, 1], ids=["prometheus", "victoriametrics"])
def test_fifty_processes_with_one_call_each_count_fifty(both: Both, which: int) -> None:
    """Series of a single sample are whole."""
    engine = both.engines[which]
    send = [sender(engine.otlp)]
    for place in range(50):
        process = Process(BEFORE + place, send=send)
        process.record(make_call("fifty", started_at_ns=(BEFORE + place) * 10**9))
        process.export(BEFORE + 10 + place)
        process.end()
    engines.flush(engine)
    with _source(engine, recorded="never") as source:
        found = by_task(source.evidence_by_task(START - HOUR_S, START, ["fifty"]))
    (series,) = found["fifty"].series.values()
    assert series.column("n") == [50]
    assert series.column("tokens.input") == [5000]


STEPS = st.lists(
    st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.booleans()), min_size=2, max_size=4), min_size=2, max_size=5
)
"""Hours of exports: calls before each, whether the process began anew under its name, whether the export was lost."""


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, late=st.integers(0, 2))
def test_restarts_under_one_name_late_starts_and_lost_exports_are_exact(
    both: Both, steps: Sequence[Sequence[tuple[int, bool, bool]]], late: int
) -> None:
    """What a process had exported before it began anew is counted, once; what it had not is lost with it."""
    number = uuid.uuid4()
    task, send = f"resets-{number}", both.send()
    wanted: dict[int, int] = {}
    begin = START - (len(steps) + late) * HOUR_S
    process, waiting, exported, ever = Process(begin, name=str(number), send=send), 0, 0, False
    for place, hour in enumerate(steps):
        base = begin + (place + late) * HOUR_S
        for index, (calls, restart, lost) in enumerate(hour):
            if restart and exported > 1:
                process.end()
                process, waiting, exported = Process(base + 60 * index, name=str(number), send=send), 0, 0
                # The first export after it shows the fall, as any export interval shorter than the traffic does.
                calls, lost = 1, False  # noqa: PLW2901
            process.record(*(make_call(task, started_at_ns=base * 10**9) for _ in range(calls)))
            waiting += calls
            if not lost and exported + waiting:
                process.export(base + 300 + 600 * index)
                if waiting:
                    wanted[base] = wanted.get(base, 0) + waiting
                exported, waiting, ever = exported + waiting, 0, True
    process.end()
    if not ever:
        return
    for engine in both.engines:
        engines.flush(engine)
        with _source(engine, recorded="never") as source:
            found = by_task(source.evidence_by_task(begin, START, [task]))
        (series,) = found[task].series.values()
        got = dict(zip(series.buckets, series.column("n"), strict=True))
        assert got == wanted
        assert sum(series.column("tokens.input")) == 100 * sum(wanted.values())
        assert sum(sum(series.column(f"latency.{index}")) for index in range(33)) == sum(wanted.values())


def test_plan_reads_from_either_server(both: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tierwise plan --url` prints the recommendations and where they came from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIERWISE_STORE", "off")
    for engine in both.engines:
        result = tierwise("plan", "--url", engine.url, "--json", "--since", "7d")
        assert result.exit_code == 0, result.output
        assert {item["task"] for item in json.loads(result.stdout)["recommendations"]} >= set(TASKS)


def _rules(folder: str) -> list[dict[str, str]]:
    loaded = YAML(typ="safe").load(engines.SHIPPED / folder / "evidence.yml")
    return list(loaded["groups"][0]["rules"])


def _query(engine: Engine, query: str, first: int | None = None, last: int | None = None) -> list[dict[str, Any]]:
    """The answer now, or at every hour from `first` to `last`."""
    values, path = {"query": query, "nocache": "1"}, "/api/v1/query"
    if first is not None and last is not None:
        values, path = values | {"start": str(first), "end": str(last), "step": str(HOUR_S)}, "/api/v1/query_range"
    request = urllib.request.Request(engine.url + path, urllib.parse.urlencode(values).encode())  # noqa: S310
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        return list(json.load(response)["data"]["result"])
