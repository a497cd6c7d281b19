"""Work that may hang, such as an exporter of which the endpoint never answers: done elsewhere, waited for so long only."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable


class Patience:
    """Does one piece of work at a time in a thread of its own, so that no number of waiters makes many threads."""

    def __init__(self) -> None:
        self._turn, self._pid = threading.Lock(), os.getpid()

    def wait_for(self, work: Callable[[], bool], timeout_s: float) -> bool:
        """Whether `work` has returned true within `timeout_s` seconds; it goes on by itself when it has not.

        What it raises counts as false. Where no thread can be started, at the end of the interpreter, it is done here.
        """
        deadline = time.monotonic() + timeout_s
        if self._pid != os.getpid():  # a thread of the parent may have had its turn
            self._turn, self._pid = threading.Lock(), os.getpid()
        turn = self._turn
        if not turn.acquire(timeout=max(0.0, timeout_s)):
            return False
        done = threading.Event()
        results: list[bool] = []

        def run() -> None:
            try:
                results.append(work())
            except Exception:  # noqa: BLE001
                results.append(False)
            finally:
                turn.release()
                done.set()

        try:
            threading.Thread(target=run, name="tierwise-export", daemon=True).start()
        except RuntimeError:
            run()
        done.wait(max(0.0, deadline - time.monotonic()))
        return results == [True]
