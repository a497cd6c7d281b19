"""Runs a suite in rounds: each round asks every task of every model once, in an order shuffled by a seed.

All figures come from the instrumented client; the runner itself measures nothing.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import product
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast

import tierwise
from tierwise.instrument.checks import forget_checks
from tierwise.runtime import bench_round
from tierwise.surfaces.bench.suite import Suite, SuiteTask, iter_checks

if TYPE_CHECKING:
    from openai import OpenAI

PROBE_LABEL = "max_tokens"
"""The label under which a probe's call keeps its limit, `none` where it was left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a bench runs. `None` leaves a request parameter out; `concurrency` is the number of calls in flight."""

    models: tuple[str, ...]
    concurrency: int = 4
    temperature: float | None = 0.0
    max_tokens: int | None = 2048
    seed: int = 1
    allow_code: bool = False


def new_session(kind: str) -> str:
    """A name for one session, `KIND-TIME-RANDOM`: its rounds are evidence buckets of their own."""
    return f"{kind}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"


class Bench:
    """One session over an instrumented client. Use it in a `with` block: the suite's checks are registered inside it.

    Failed calls are recorded as they are and do not stop the session; `failures` has the last error of each model.
    """

    def __init__(self, client: OpenAI, suite: Suite, options: Options, *, session: str) -> None:
        self._client, self._suite, self._options = client, suite, options
        self.session = session
        self.failures: dict[str, Exception] = {}
        self._pool = ThreadPoolExecutor(options.concurrency, thread_name_prefix="tierwise-bench")

    def __enter__(self) -> Bench:
        for task, check in iter_checks(self._suite, allow_code=self._options.allow_code):
            function = cast("Callable[[Any], bool | float]", check.function)
            tierwise.check(task, name=check.name, on=check.on, threshold=check.threshold)(function)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
        for task in {task for task, _ in iter_checks(self._suite, allow_code=True)}:
            forget_checks(task)

    def run(self, rounds: Iterable[int], *, done: Callable[[], None] = lambda: None) -> None:
        """Run rounds; `done` is called after each call, from the calling thread's helpers."""
        futures: list[Future[None]] = []
        for number in rounds:
            jobs = [(task, model) for task in self._suite.tasks for model in self._options.models]
            Random(f"{self._options.seed}/{number}").shuffle(jobs)  # noqa: S311 - an order, not a secret
            for task, model in jobs:
                future = self._pool.submit(
                    self._ask, task, model, number, max_tokens=self._options.max_tokens, labels=None
                )
                future.add_done_callback(lambda _: done())
                futures.append(future)
        self._settle(futures)

    def probe(self, *, done: Callable[[], None] = lambda: None) -> None:
        """Ask the probe's prompts with each of its limits; nothing where the suite has no probe."""
        probe = self._suite.probe
        if probe is None:
            return
        futures = []
        for model, task, limit in product(self._options.models, probe.tasks, probe.max_tokens):
            labels = {PROBE_LABEL: "none" if limit is None else str(limit)}
            future = self._pool.submit(self._ask, task, model, 0, max_tokens=limit, labels=labels)
            future.add_done_callback(lambda _: done())
            futures.append(future)
        self._settle(futures)

    def calls_of(self, rounds: int) -> int:
        """How many calls so many rounds make."""
        return rounds * len(self._suite.tasks) * len(self._options.models)

    def probe_calls(self) -> int:
        """How many calls the probe makes."""
        probe = self._suite.probe
        return 0 if probe is None else len(probe.tasks) * len(probe.max_tokens) * len(self._options.models)

    def _settle(self, futures: Sequence[Future[None]]) -> None:
        """Wait for all; a fault of ours or Ctrl-C stops what has not begun."""
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            for future in futures:
                if future.done():
                    future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            raise

    def _ask(
        self, task: SuiteTask, model: str, number: int, *, max_tokens: int | None, labels: dict[str, str] | None
    ) -> None:
        from openai import OpenAIError

        with (
            bench_round(self.session, number),
            tierwise.task(task.name, expects=task.expects, schema=task.schema, labels=labels, route=False),
        ):
            try:
                self._client.chat.completions.create(
                    **request_of(task, model, number, max_tokens=max_tokens, temperature=self._options.temperature)
                )
            except (OpenAIError, ValueError) as error:  # ValueError: the client cannot read the answer
                self.failures[model] = error


def request_of(
    task: SuiteTask, model: str, number: int, *, max_tokens: int | None, temperature: float | None
) -> dict[str, Any]:
    """The request of one call; parameters that are `None` are left out."""
    request: dict[str, Any] = {"model": model, "messages": task.messages(number)}
    if temperature is not None:
        request["temperature"] = temperature
    if max_tokens is not None:
        request["max_tokens"] = max_tokens
    return request
