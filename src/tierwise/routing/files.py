"""Files that several processes share: an advisory lock with a time limit, atomic replacement, owner-only rights."""

from __future__ import annotations

import glob
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tierwise.core.errors import RouteError

_SUFFIX: Final = ".tmp"
_DEAD_S: Final = 600.0
"""A writer takes milliseconds: a part of this age, seconds, belongs to one that was killed."""

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _try_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def owner_folder(folder: Path) -> None:
    """Make a folder for the owner alone; one called `.tierwise` ignores itself in git.

    Raises:
        OSError: it cannot be made.
    """
    for one in reversed((folder, *folder.parents)):
        if not one.is_dir():
            with suppress(FileExistsError):
                one.mkdir(mode=0o700)
    ignore = folder / ".gitignore"
    if folder.name == ".tierwise" and not ignore.exists():
        with (
            suppress(FileExistsError),
            os.fdopen(os.open(ignore, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file,
        ):
            file.write("*\n")


@contextmanager
def locked(path: Path, *, timeout_s: float = 5.0) -> Iterator[None]:
    """Hold the lock of `path` (the file `path` + `.lock`) against other threads and processes.

    The system frees it when its holder ends, however it ends; the empty lock file stays. Not re-entrant.

    Raises:
        RouteError: another process holds it for longer than `timeout_s`, or it cannot be made.
    """
    lock = path.with_name(path.name + ".lock")
    try:
        owner_folder(path.parent)
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except OSError as error:
        raise RouteError(f"{lock}: cannot be made: {error.strerror}; check the folder's rights") from None
    try:
        _wait_for(descriptor, lock, timeout_s)
        try:
            yield
        finally:
            _unlock(descriptor)
    finally:
        os.close(descriptor)


def _wait_for(descriptor: int, lock: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            _try_lock(descriptor)
        except (BlockingIOError, PermissionError):
            if time.monotonic() >= deadline:
                raise RouteError(
                    f"{lock}: held by another process for more than {timeout_s:g} s; see who with `fuser {lock}` "
                    "and try again"
                ) from None
            time.sleep(0.01)
        except OSError as error:
            raise RouteError(
                f"{lock}: this file system cannot lock files ({error.strerror}); use a local one"
            ) from None
        else:
            return


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file's content at once and durably: readers see the old or the new, never a part.

    Raises:
        OSError: it cannot be written; the old content is untouched.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_SUFFIX)
    try:
        _forget_dead_writers(path, os.fstat(descriptor).st_mtime)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
    sync_folder(path.parent)


def _forget_dead_writers(path: Path, now_s: float) -> None:
    """Remove what writers that were killed have left beside `path`; `now_s` is by the file system's own clock."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*{_SUFFIX}"):
        with suppress(OSError):
            if now_s - left.lstat().st_mtime > _DEAD_S:
                left.unlink()


def sync_folder(folder: Path) -> None:
    """Make a new name in a folder durable, where the system can."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
