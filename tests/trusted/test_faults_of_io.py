"""The store fails in every way that files do: callers get what a bare client gives, at once, and losses are counted."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

import tierwise
from support.commands import tierwise as command_line
from support.io_rig import Rig, series
from tierwise.core.errors import StoreError
from tierwise.evidence import SqliteStore
from tierwise.telemetry import worker
from tierwise.telemetry.feed import Feed

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("in_production")]

ROOM = 1 << 20
NOBODY = 65_534
HOLD = (
    "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN IMMEDIATE'); "
    "print('held', flush=True); sys.stdin.read(); c.execute('ROLLBACK'); c.close()"
)


@pytest.fixture
def rig(url: str, tmp_path: Path) -> Iterator[Rig]:
    """Clients on a store that works so far."""
    made = Rig(url, tmp_path / "s.db")
    tierwise.force_flush(10)
    yield made
    made.close()


def _stored(path: Path) -> int:
    with SqliteStore.open(path, read_only=True) as store:
        health = store.health()
        assert health.intact, health.problem
        return health.calls


def _said(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if text in record.getMessage()]


def test_the_series_has_every_kind_of_call(rig: Rig) -> None:
    """What is compared under each fault holds answers, whole and broken streams, and errors of provider and network."""
    found = {(name, model): brought for name, model, brought in series(rig.bare)}
    assert {brought[0] for brought in found["stream", "answers"]} == {"ChatCompletionChunk"}
    assert len(found["stream", "answers"]) > 3
    assert 0 < len(found["stream", "breaks-off"]) < len(found["stream", "answers"])
    kinds = {brought[0][0] for brought in found.values()}
    assert kinds >= {"ChatCompletion", "InternalServerError", "RateLimitError", "BadRequestError", "APIConnectionError"}


# -- no room -------------------------------------------------------------------------------------------------------


@contextmanager
def _limit_on_files(_: Path) -> Iterator[None]:
    """No file of this process grows beyond 128 KiB: writing fails with EFBIG."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (128 << 10, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


@contextmanager
def _no_space(folder: Path) -> Iterator[None]:
    """A file takes all the space that the file system has left: writing fails with ENOSPC."""
    with (folder / "filler").open("wb", buffering=0) as filler:
        for size in (4096, 1):
            try:
                while filler.write(b"x" * size):
                    pass
            except OSError:
                continue
    try:
        yield
    finally:
        (folder / "filler").unlink()


def _mount(folder: Path) -> bool:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    return done.returncode == 0


def _may_mount() -> bool:
    folder = Path(f"/tmp/tierwise-mount-{os.getpid()}")  # noqa: S108 - only to see whether it is allowed
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    folder.mkdir(exist_ok=True)
    try:
        if not _mount(folder):
            return False
        subprocess.run(["umount", str(folder)], check=True)
        return True
    finally:
        folder.rmdir()


FULL = [_limit_on_files, *([_no_space] if _may_mount() else [])]


@pytest.fixture
def small(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder; where mounting is allowed, a file system of one MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if request.node.callspec.params.get("full") is _no_space:
        assert _mount(folder)
        request.addfinalizer(lambda: subprocess.run(["umount", "-l", str(folder)], check=True))  # noqa: PT021
    return folder


@pytest.mark.parametrize("full", FULL)
def test_a_full_disk(
    url: str, small: Path, full: Callable[[Path], AbstractContextManager[None]], caplog: pytest.LogCaptureFixture
) -> None:
    """Neither store nor log has room: calls wait in memory, are written once there is some, and none is lost."""
    rig = Rig(url, small / "s.db")
    try:
        assert tierwise.force_flush(10)
        with full(small):
            rig.attack(full.__name__.strip("_"))
            assert not tierwise.force_flush(0.5)
        assert tierwise.force_flush(10)
        assert len(_said(caplog, "calls are kept in memory and written as soon as that works again")) == 1
        assert (_stored(small / "s.db"), rig.internal("dropped")) == (rig.calls, 0)
    finally:
        rig.close()


def test_a_full_disk_to_the_end(url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """There is never room again: what could not be stored is told at the end, in numbers, and counted."""
    path = tmp_path / "s.db"
    rig = Rig(url, path)
    assert tierwise.force_flush(10)
    with _limit_on_files(tmp_path):
        rig.attack("full to the end", calls=600)
        rig.close()
    stored = _stored(path)
    lost = rig.calls - stored
    assert lost > 0
    assert rig.internal("dropped") == lost
    assert _said(caplog, "could not be stored before the end") == [
        f"tierwise: {lost} calls could not be stored before the end and are lost to the store"
    ]


def test_losses_of_a_full_disk_are_shown(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More calls than may wait while there is no room: once there is some, `doctor` and `status` say how many are lost."""
    path = tmp_path / "s.db"
    monkeypatch.setattr(worker, "Feed", lambda sink, *, capacity, **how: Feed(sink, capacity=min(capacity, 50), **how))
    rig = Rig(url, path)
    try:
        assert tierwise.force_flush(10)
        assert "losses" not in _findings_of_doctor(path)
        with _limit_on_files(tmp_path):
            rig.call(600)
            assert not tierwise.force_flush(0.5)
        assert tierwise.force_flush(10)
        lost = rig.calls - _stored(path)
        assert lost > 0
        assert rig.internal("dropped") == lost
    finally:
        rig.close()
    assert _findings_of_doctor(path)["losses"].startswith(f"{lost:,} calls were made but not stored")
    told = f"note: {lost:,} calls were made but not stored, so they are in none of these figures; `tierwise doctor`"
    assert told in command_line("status", "--store", str(path)).stderr


def _findings_of_doctor(path: Path) -> dict[str, str]:
    document = json.loads(command_line("doctor", "--json", "--store", str(path)).stdout)
    return {point["about"]: point["text"] for point in document["points"] if point["level"] == "finding"}


@pytest.mark.parametrize("full", FULL)
def test_no_room_for_a_new_store(
    small: Path, full: Callable[[Path], AbstractContextManager[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that was named and cannot be made is told when instrumenting, with what to do; room makes it good."""
    if full is _limit_on_files:
        monkeypatch.setattr(resource, "setrlimit", _tighter(resource.setrlimit))
    with full(small), pytest.raises(StoreError, match=r"disk is full|cannot be used as a store \(disk I/O error\)"):
        SqliteStore.open(small / "s.db")
    SqliteStore.open(small / "s.db").close()


def _tighter(bare: Callable[..., None]) -> Callable[..., None]:
    return lambda which, limits: bare(which, (8 << 10 if limits[0] == 128 << 10 else limits[0], limits[1]))


# -- rights --------------------------------------------------------------------------------------------------------


@contextmanager
def _as_somebody_else() -> Iterator[None]:
    """Root may write everywhere, so it becomes nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that others may enter."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_store_that_may_not_be_written(
    url: str, open_folder: Path, what: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Named, it is refused at once; by default, calls go on without a store, which is said once."""
    (open_folder / "tierwise.yaml").write_text("tasks: {}\n", encoding="utf-8")
    path = open_folder / ".tierwise" / "tierwise.db"
    SqliteStore.open(path).close()
    for one in path.parent.iterdir():
        one.chmod(0o444)
    path.parent.chmod(0o755)
    if what == "folder":
        path.unlink()
        path.parent.chmod(0o555)
    monkeypatch.chdir(open_folder)
    warm = Rig(url, "off")
    warm.close()
    with _as_somebody_else():
        with pytest.raises(StoreError, match=r"read here|cannot be used as a store"):
            SqliteStore.open(path)
        rig = Rig(url, None)  # type: ignore[arg-type]
        try:
            rig.attack(f"read-only {what}", calls=200)
            assert len(_said(caplog, "recording without a store")) == 1
        finally:
            rig.close()
    path.parent.chmod(0o755)


# -- the file goes or changes --------------------------------------------------------------------------------------


def test_a_folder_at_the_stores_place(rig: Rig, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder in place of the file is refused when named; under a running process calls wait, and are lost in numbers."""
    path = tmp_path / "s.db"
    with pytest.raises(StoreError):
        SqliteStore.open(tmp_path)
    stored = _stored(path)
    _remove(path)
    path.mkdir()
    rig.attack("a folder in the store's place", calls=200)
    rig.close()
    assert rig.internal("dropped") == rig.calls - stored
    assert len(_said(caplog, "could not be stored before the end")) == 1


def _remove(path: Path) -> None:
    for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        name.unlink(missing_ok=True)


@pytest.mark.parametrize("how", ["removed", "removed but for its log", "moved away", "replaced by an older copy"])
def test_a_store_that_goes_while_it_is_used(
    rig: Rig, tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Calls go into the file that is there now, a new one where there is none; nothing after the change is lost."""
    path, aside = tmp_path / "s.db", tmp_path / "aside.db"
    before = _stored(path)
    if how == "removed but for its log":
        path.unlink()
    elif how == "removed":
        _remove(path)
    elif how == "moved away":
        path.rename(aside)
    else:
        with sqlite3.connect(path) as source, sqlite3.connect(aside) as copy:
            source.backup(copy)
        source.close()
        copy.close()
        rig.call(5)
        assert tierwise.force_flush(10)
        _remove(path)
        aside.rename(path)
        rig.calls -= 5
    rig.attack(f"store {how}", calls=100)
    assert tierwise.force_flush(10)
    kept = before if how == "replaced by an older copy" else 0
    assert _stored(path) == rig.calls - before + kept
    assert rig.internal("dropped") == 0
    assert len(_said(caplog, "was removed or replaced while in use")) == 1


# -- another process, damage ---------------------------------------------------------------------------------------


def test_locked_by_another_process_for_seconds(rig: Rig, tmp_path: Path) -> None:
    """Callers do not notice the lock; everything is there once it is free."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "s.db")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        began = time.monotonic()
        rig.attack("locked")
        time.sleep(max(0.0, began + 6 - time.monotonic()))  # beyond SQLite's own patience
        assert not tierwise.force_flush(0.1)
        holder.communicate(b"")
    assert tierwise.force_flush(15)
    assert (_stored(tmp_path / "s.db"), rig.internal("dropped")) == (rig.calls, 0)


def _damage_middle(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))


def _damage_head(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"This is no database. " * 200)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [_damage_middle, _damage_head, _truncate])
def test_damage_under_a_running_process(
    rig: Rig, tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Calls wait until the damaged file is moved away; then they are in a new one, and no call of theirs is lost."""
    path = tmp_path / "s.db"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()
    before = _stored(path)
    damage(path)
    rig.attack(damage.__name__.strip("_"), calls=200)
    refused = not tierwise.force_flush(0.5)
    assert refused
    assert len(_said(caplog, "kept in memory")) == 1
    _remove(path)
    assert tierwise.force_flush(10)
    assert (_stored(path), rig.internal("dropped")) == (rig.calls - before, 0)


@pytest.mark.parametrize("cut", ["garbage", "truncated"])
def test_a_damaged_log_of_a_killed_process(url: str, tmp_path: Path, cut: str) -> None:
    """The store opens to the last sound transaction of its write-ahead log and goes on."""
    path, copy = tmp_path / "s.db", tmp_path / "copy.db"
    rig = Rig(url, path)
    try:
        for _ in range(4):
            rig.call(20)
            assert tierwise.force_flush(10)
        shutil.copy(path, copy)
        shutil.copy(f"{path}-wal", f"{copy}-wal")
    finally:
        rig.close()
    log = Path(f"{copy}-wal")
    size = log.stat().st_size
    if cut == "truncated":
        os.truncate(log, size - 5_000)
    else:
        with log.open("r+b") as file:
            file.seek(size * 3 // 4)
            file.write(os.urandom(size // 4))
    second = Rig(url, copy)
    try:
        second.attack(f"log {cut}", calls=100)
        assert tierwise.force_flush(10)
        kept = _stored(copy) - second.calls
        print(f"\n[figures] log {cut}: kept {kept} of {rig.calls} calls")
        assert 0 <= kept < rig.calls
    finally:
        second.close()


def test_no_database_at_the_place(tmp_path: Path) -> None:
    """A file of another kind is refused when instrumenting and stays as it is."""
    path = tmp_path / "s.db"
    path.write_bytes(b"not a database, but somebody's notes\n" * 300)
    content = path.read_bytes()
    with pytest.raises(StoreError, match="is no store"):
        SqliteStore.open(path)
    assert path.read_bytes() == content
