"""A process of an earlier version that writes into a store: its code is the archive of schema 3 among the fixtures.

    python tests/support/old_writer.py ARCHIVE STORE

prints `open` and writes ten calls a batch until its input ends, then how many; `refused: …` when it may not open.
"""

import sys
import threading

sys.path.insert(0, sys.argv[1])

from tierwise.core.call import Answer, Call, Request, TaskContext, Usage
from tierwise.core.cost import Cost
from tierwise.core.errors import StoreError
from tierwise.evidence import SqliteStore, schema

START_NS = 1_790_000_000_000_000_000


def one_call(number: int) -> Call:
    """A finished call."""
    return Call(
        request=Request(operation="chat", api_type="chat_completions", provider="openai", model="old"),
        context=TaskContext(name="shared"),
        answer=Answer(id=f"old-{number}", model="old", finish_reasons=("stop",)),
        outcome="success",
        candidate="old",
        epoch="e1",
        started_at_ns=START_NS + number,
        duration_s=0.5,
        usage=Usage(input_tokens=10, output_tokens=5),
        cost=Cost(amount_usd=0.001, source="catalogue"),
    )


def main() -> None:
    """Write until the input ends."""
    assert schema.VERSION == 3
    try:
        store = SqliteStore.open(sys.argv[2])
    except StoreError as error:
        print(f"refused: {error}")
        return
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    print("open", flush=True)
    number = 0
    while not ended.wait(0.002):
        store.write([one_call(number + index) for index in range(10)])
        number += 10
    store.close()
    print(number)


if __name__ == "__main__":
    main()
