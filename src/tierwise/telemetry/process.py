"""What happens to workers when their process exits, is terminated or forks."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Final, Protocol

_GRACE_S: Final = 5.0
_POLL_S: Final = 0.005
_FORK_WAIT_S: Final = 1.0


class Watched(Protocol):
    """What is looked after here: `worker.Worker`."""

    @property
    def fork_lock(self) -> threading.Lock: ...

    def shutdown(self, timeout_s: float = ...) -> bool: ...

    def request_last_flush(self, timeout_s: float) -> Callable[[], bool]: ...

    def after_fork_in_child(self) -> None: ...

    def reset_metrics(self) -> None: ...


class _State:
    """Process-wide: known workers (a tuple, replaced whole, so that a signal handler can read it at any moment)."""

    workers: tuple[weakref.ref[Watched], ...] = ()
    held: tuple[threading.Lock, ...] = ()
    fork_hooked = False
    children_hooked = False
    lock = threading.Lock()


def watch(worker: Watched) -> None:
    """Look after a worker from now on: flush it at exit and on SIGTERM, start it afresh in forked children.

    SIGTERM is only taken over while it has its default action and from the main thread; afterwards the default action
    follows. A handler set by the application, before or after, is left alone.
    """
    with _State.lock:
        _State.workers = (*(ref for ref in _State.workers if ref() is not None), weakref.ref(worker))
        if not _State.fork_hooked and hasattr(os, "register_at_fork"):
            _State.fork_hooked = True
            os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
    atexit.register(_at_exit, weakref.ref(worker))
    _watch_children_of_multiprocessing()
    _take_sigterm()


def forget(worker: Watched) -> None:
    """Look after it no more; the last one gives SIGTERM its default action back."""
    with _State.lock:
        _State.workers = tuple(ref for ref in _State.workers if ref() not in (None, worker))
        empty = not _State.workers
    if empty and _in_main_thread() and signal.getsignal(signal.SIGTERM) is _on_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _known() -> list[Watched]:
    return [worker for ref in _State.workers if (worker := ref()) is not None]


def _at_exit(ref: weakref.ref[Watched]) -> None:
    worker = ref()
    if worker is not None:
        worker.shutdown(_GRACE_S)


def _watch_children_of_multiprocessing() -> None:
    """Have them flush at their end: they leave by `os._exit`, so exit handlers never run there, finalisers do."""
    from multiprocessing import parent_process, util

    if not _State.children_hooked:
        _State.children_hooked = True
        util.register_after_fork(_State, _finalise_in_child)
    if parent_process() is not None:
        _finalise_in_child(_State)


def _finalise_in_child(_: type[_State]) -> None:
    from multiprocessing import util

    util.Finalize(None, _all_at_exit, exitpriority=0)


def _all_at_exit() -> None:
    for worker in _known():
        # Exporters as well: what shuts them down at exit does not run here either.
        done = worker.request_last_flush(_GRACE_S)
        deadline = time.monotonic() + _GRACE_S
        while not done() and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        worker.shutdown(_GRACE_S)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _take_sigterm() -> None:
    if _in_main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        # Sub-interpreters may not set handlers.
        with contextlib.suppress(ValueError):
            signal.signal(signal.SIGTERM, _on_sigterm)


def _on_sigterm(signum: int, _frame: FrameType | None) -> None:
    """Let the workers' threads flush, then die of the signal. Takes no lock: the main thread may hold any of them."""
    deadline = time.monotonic() + _GRACE_S
    pending = [worker.request_last_flush(_GRACE_S) for worker in _known()]
    while time.monotonic() < deadline and not all(done() for done in pending):
        time.sleep(_POLL_S)
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)


def _before_fork() -> None:
    # No recording may be under way: the child would inherit the SDK's locks as they are at this moment.
    locks = {id(worker.fork_lock): worker.fork_lock for worker in _known()}
    _State.held = tuple(lock for lock in locks.values() if lock.acquire(timeout=_FORK_WAIT_S))


def _after_fork() -> None:
    held, _State.held = _State.held, ()
    for lock in held:
        lock.release()


def _after_fork_in_child() -> None:
    _State.held = ()
    _State.lock = threading.Lock()
    for worker in _known():
        worker.reset_metrics()
        worker.after_fork_in_child()
