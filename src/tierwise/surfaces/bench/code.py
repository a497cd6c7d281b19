"""`python_tests`: runs an answer's Python code with tests in a limited subprocess. Only after the user's consent."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import Final

WALL_S: Final = 10.0
_CPU_S: Final = 5
_MEMORY_BYTES: Final = 512 << 20
_FILE_BYTES: Final = 1 << 20
_MAX_CODE_CHARS: Final = 200_000
_FENCE: Final = re.compile(
    r"^[ \t]*(?:```|~~~)[ \t]*(?:python|py|python3)?[ \t]*$\n(.*?)^[ \t]*(?:```|~~~)[ \t]*$", re.M | re.S | re.I
)

# Limits are set by the child itself, before it reads any code: nothing has to run between fork and exec.
_CHILD: Final = f"""
import sys
try:
    import resource as r
except ImportError:
    r = None
if r is not None:
    for name, limit in (("RLIMIT_CPU", {_CPU_S}), ("RLIMIT_AS", {_MEMORY_BYTES}), ("RLIMIT_FSIZE", {_FILE_BYTES}),
                        ("RLIMIT_CORE", 0), ("RLIMIT_NOFILE", 64)):
        kind = getattr(r, name, None)
        if kind is not None:
            try:
                r.setrlimit(kind, (limit, limit))
            except (ValueError, OSError):
                pass
source = sys.stdin.buffer.read().decode("utf-8", "replace")
exec(compile(source, "answer", "exec"), {{"__name__": "answer"}})
"""


def python_tests(tests: str) -> Callable[[str], bool]:
    """A check that runs the answer's Python code blocks and then `tests`; it passes when nothing raises.

    The code runs in an interpreter of its own: isolated mode, an empty environment, an empty folder, limits on time,
    memory, file size and open files. That bounds accidents; it is no sandbox against an attacker, who could still read
    files and open connections, so it is off unless the user allows it.

    Raises:
        ValueError: the tests are not Python.
    """
    try:
        compile(tests, "tests", "exec")
    except (SyntaxError, ValueError) as error:
        msg = f"python_tests: the tests are not Python: {error}"
        raise ValueError(msg) from None

    def check(text: str) -> bool:
        code = code_of(text)
        return code is not None and _passes(f"{code}\n\n{tests}\n")

    check.__name__ = "python_tests"
    return check


def code_of(text: str) -> str | None:
    """The Python code blocks of a Markdown answer, joined; `None` without any."""
    blocks = _FENCE.findall(text[:_MAX_CODE_CHARS] + "\n")
    return "\n\n".join(blocks) if blocks else None


def _passes(source: str) -> bool:
    with tempfile.TemporaryDirectory(prefix="tierwise-code-", ignore_cleanup_errors=True) as folder:
        with subprocess.Popen(  # noqa: S603 - our own interpreter; the code is the user's decision
            [sys.executable, "-I", "-S", "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        ) as child:
            try:
                child.communicate(source.encode("utf-8", "replace"), timeout=WALL_S)
            except subprocess.TimeoutExpired:
                child.kill()
            finally:
                _end_group(child.pid)
        return child.returncode == 0


def _end_group(pid: int) -> None:
    """End what the code may have started: it is the leader of a process group of its own."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
