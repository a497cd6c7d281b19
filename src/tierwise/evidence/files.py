"""The store's file: made for its owner alone, and what its faults mean to a person and to who writes it."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tierwise.core.errors import StoreError, UnfitRowError

_PRIMARY: Final = 0xFF
_WRITER_CACHE_KIB: Final = 256
"""Inside the application; appending needs no more. A reader has the usual two MiB."""
_MAGIC: Final = b"SQLite format 3\0"
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_OF_A_ROW: Final = (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.IntegrityError, sqlite3.DataError)
"""What SQLite says of a value of a type that it does not know, of a NULL where there must be none, of a text of gigabytes."""


def make_private(path: Path) -> None:
    """Create the store's folder and file for their owner alone; a `.tierwise` folder ignores itself in git."""
    for folder in reversed((path.parent, *path.parent.parents)):
        if not folder.exists():
            folder.mkdir(mode=0o700, exist_ok=True)
    if path.exists():
        return
    ignore = path.parent / ".gitignore"
    if path.parent.name == ".tierwise" and not ignore.exists():
        with suppress(FileExistsError), open(os.open(ignore, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write("*\n")
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def identity(path: Path) -> tuple[int, int] | None:
    """Which file is there now (device and inode), however it is called; `None` without one."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def connect(path: Path, *, read_only: bool, busy_ms: int) -> sqlite3.Connection:
    """Open the file; a writer makes it where there is none.

    Raises:
        StoreError: there is none to read.
        OSError, sqlite3.Error: it cannot be opened.
    """
    if read_only:
        if not path.is_file():
            raise StoreError(
                f"{path}: no store here yet; run an application with tierwise.instrument(), or name another path"
            )
        source = f"{path.absolute().as_uri()}?mode=ro"
    else:
        make_private(path)
        source = path.absolute().as_uri()
    connection = sqlite3.connect(
        source, uri=True, timeout=busy_ms / 1000, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute(f"PRAGMA busy_timeout = {busy_ms}")
        connection.execute("PRAGMA synchronous = NORMAL")
        if not read_only:
            connection.execute(f"PRAGMA cache_size = -{_WRITER_CACHE_KIB}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextmanager
def unfit_rows_told() -> Iterator[None]:
    """Tell faults of the rows that are written from those of the file, which may be gone the next time.

    Raises:
        UnfitRowError: in the place of what such a row raises.
        StoreError: in the place of a `MemoryError`; the same rows may be written the next time.
    """
    try:
        yield
    except StoreError as error:
        if isinstance(error.__cause__, _OF_A_ROW):
            raise UnfitRowError(f"a row cannot be stored: {error.__cause__}") from error.__cause__
        raise
    except MemoryError as error:  # of the process at this moment, whatever the row
        raise StoreError("there is no memory to write with") from error
    except Exception as error:
        raise UnfitRowError(f"a row cannot be stored: {type(error).__name__}") from error


def place_problem(path: Path) -> str | None:
    """Why no store can be made or written at `path`, in words that name the place; `None` when nothing is in the way.

    A file without a name is made in the nearest folder that exists and is gone again at once: rights alone do not tell
    (read-only mounts, immutable folders, quotas). An existing store is not opened.
    """
    place = path.parent
    try:
        there = path.exists()
        if there and path.is_dir():
            return f"{path} is a folder, not a file"
        place = path.parent if there else next(parent for parent in path.absolute().parents if parent.exists())
        if not place.is_dir():
            return f"{place} is not a folder"
        if there and not os.access(path, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            return f"{path} cannot be written"
        with tempfile.TemporaryFile(dir=place):
            return None
    except OSError as error:
        return f"{place} cannot be written ({error.strerror or error})"


def _unreadable(path: Path, error: Exception) -> str:
    """What to say of a file that SQLite cannot read: a damaged store, or a file of another kind."""
    try:
        with path.open("rb") as file:
            damaged = file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        damaged = True
    if damaged:
        return f"{path}: is damaged ({error}); move it away, a new one is made, or restore a copy"
    return f"{path}: is no store; name another file (--store, TIERWISE_STORE), or restore a copy if this was one"


def explain(path: Path, error: Exception, *, busy_s: float) -> str:
    """What is wrong with the store and what to do next."""
    code = getattr(error, "sqlite_errorcode", None)
    code = code & _PRIMARY if isinstance(code, int) else None
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return f"{path}: locked by another process for over {busy_s:g} s; end what holds it (fuser {path.name})"
    if code == sqlite3.SQLITE_FULL or (isinstance(error, OSError) and error.errno in _NO_SPACE):
        return f"{path}: the disk is full; free some space, or move the store with TIERWISE_STORE"
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return _unreadable(path, error)
    if code == sqlite3.SQLITE_READONLY:
        return (
            f"{path}: can only be read here; check the owner and mode of the file and its folder, or set TIERWISE_STORE"
        )
    if isinstance(error, MemoryError):
        return f"{path}: there is no memory to read or write with; give the process more"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"{path}: cannot be used as a store ({text}); check the path and its permissions, or set TIERWISE_STORE"
