"""Processes of two versions on one store: the old one goes on writing while the new one migrates."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from support.calls import make_call
from support.earlier import FIXTURES, sums, version_of
from tierwise.core.call import Answer
from tierwise.evidence import SqliteStore, schema

WRITER = Path(__file__).parents[1] / "support" / "old_writer.py"
COMMAND = [sys.executable, str(WRITER), str(FIXTURES / "tierwise-schema-3.zip")]


def _rows(path: Path) -> int:
    with SqliteStore.open(path) as store:
        return store.call_count()


def _until_more(path: Path, than: int) -> int:
    deadline = time.monotonic() + 30
    while (found := _rows(path)) <= than and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def test_an_old_process_goes_on_writing_while_a_new_one_migrates(tmp_path: Path) -> None:
    """Every call of both is there once, in the sums too, also of hours that the new one has packed meanwhile; an old
    process that starts afterwards is told to upgrade."""
    path = tmp_path / "s.db"
    with subprocess.Popen(
        [*COMMAND, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as old:
        assert old.stdout is not None
        assert old.stdout.readline() == "open\n"
        before = _until_more(path, 0)
        assert version_of(path) == schema.VERSION
        with SqliteStore.open(path) as store:
            for number in range(20):
                answers = [Answer(id=f"new-{number}-{index}") for index in range(10)]
                store.write([make_call("shared", model="new", answer=answer) for answer in answers])
                if number % 5 == 4:
                    store.pack()
            store.pack()
        _until_more(path, _until_more(path, before))
        said, errors = old.communicate("")
    assert (old.returncode, errors) == (0, "")
    with SqliteStore.open(path) as store:
        ids = [row.response_id for row in store.calls()]
        assert len(ids) == len(set(ids)) == int(said) + 200
        kept, rolled = sums(store)
        assert {key: one.n for key, one in kept.items()} == {key: one.n for key, one in rolled.items()}
        read = {
            key[0]: sum(series.column("n")) for one in store.evidence_by_task() for key, series in one.series.items()
        }
        assert read == {"old": int(said), "new": 200}
        assert store.health().intact
    late = subprocess.run(
        [*COMMAND, str(path)], input="", capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert late.startswith("refused:")
    assert f"schema version {schema.VERSION}, this tierwise knows up to 3; upgrade tierwise" in late
