"""The HTTP tries inside a call of a Stainless client: when each began, how it ended, how long the client then waited."""

from __future__ import annotations

import time
from typing import Any

from tierwise.instrument.entering import current
from tierwise.instrument.guard import quietly, tell
from tierwise.instrument.observation import Observation


def build_request_of(bare: Any) -> Any:
    def build_request(self: Any, *args: Any, **kwargs: Any) -> Any:
        observation = current.get()
        if observation is not None:
            observation.try_t0 = time.perf_counter()
        return bare(self, *args, **kwargs)

    return build_request


def sync_sleep(bare: Any) -> Any:
    def sleep_for_retry(self: Any, *args: Any, **kwargs: Any) -> None:
        observation = current.get()
        if observation is None:
            return bare(self, *args, **kwargs)  # type: ignore[no-any-return]
        t0 = time.perf_counter()
        slept = False
        try:
            bare(self, *args, **kwargs)
            slept = True
        finally:
            backoff_s = time.perf_counter() - t0
            quietly(observation.hook.recorder, "try", _try_failed, observation, args, kwargs, t0, backoff_s, slept)
        return None

    return sleep_for_retry


def async_sleep(bare: Any) -> Any:
    async def sleep_for_retry(self: Any, *args: Any, **kwargs: Any) -> None:
        observation = current.get()
        if observation is None:
            await bare(self, *args, **kwargs)
            return
        t0 = time.perf_counter()
        slept = False
        try:
            await bare(self, *args, **kwargs)
            slept = True
        finally:
            backoff_s = time.perf_counter() - t0
            quietly(observation.hook.recorder, "try", _try_failed, observation, args, kwargs, t0, backoff_s, slept)

    return sleep_for_retry


def _try_failed(
    observation: Observation,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    t0: float,
    backoff_s: float,
    slept: bool,
) -> None:
    response = kwargs["response"] if "response" in kwargs else (args[-1] if args else None)
    observation.try_failed(response, t0, backoff_s, again=slept)


def sync_process(bare: Any) -> Any:
    def process_response(self: Any, *args: Any, **kwargs: Any) -> Any:
        observation = current.get()
        if observation is not None:
            try:
                observation.responded(kwargs.get("response"))
            except Exception as fault:  # noqa: BLE001
                tell(observation.hook.recorder, "response", fault)
        return bare(self, *args, **kwargs)

    return process_response


def async_process(bare: Any) -> Any:
    async def process_response(self: Any, *args: Any, **kwargs: Any) -> Any:
        observation = current.get()
        if observation is not None:
            try:
                observation.responded(kwargs.get("response"))
            except Exception as fault:  # noqa: BLE001
                tell(observation.hook.recorder, "response", fault)
        return await bare(self, *args, **kwargs)

    return process_response
