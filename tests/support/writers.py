"""Processes that write to one store; a module of their own, so that a spawned process can import it."""

from __future__ import annotations

import threading

from support.calls import make_call
from tierwise.core.call import Answer
from tierwise.evidence import SqliteStore


def write_many(path: str, process: int, threads: int, batches: int) -> None:
    store = SqliteStore.open(path)

    def work(thread: int) -> None:
        for batch in range(batches):
            answers = [Answer(id=f"{process}-{thread}-{batch}-{n}") for n in range(10)]
            store.write([make_call("shared", model=f"p{process}", answer=answer) for answer in answers])

    running = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for one in running:
        one.start()
    for one in running:
        one.join()
    store.close()


def write_for_ever(path: str) -> None:
    store = SqliteStore.open(path)
    while True:
        store.write([make_call() for _ in range(50)])
