"""The candidates of peers.py, their environments, and the processes that run in them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
SDK = "opentelemetry-sdk"
NEWEST = "openai"
OLDER = ("openai<3", "openai<2")
FOREIGN = (
    "OTEL_",
    "TIERWISE_",
    "OPENAI_",
    "AZURE_",
    "DD_",
    "SENTRY_",
    "LANGFUSE_",
    "LOGFIRE_",
    "TRACELOOP_",
    "OPENLIT_",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What is compared: the adapter's name, the distribution, the module that a user imports, what else it needs."""

    name: str
    package: str = ""
    module: str = ""
    needs: tuple[str, ...] = ()
    note: str = ""

    @property
    def is_ours(self) -> bool:
        """Whether it is installed from this checkout."""
        return self.package == "tierwise"


YARDSTICKS = (Candidate(name="bare"), Candidate(name="floor"))
CANDIDATES = (
    Candidate(
        name="tierwise",
        package="tierwise",
        module="tierwise",
        note="as a user has it: task, policy file, priced model, store on",
    ),
    Candidate(
        name="tierwise-spans",
        package="tierwise",
        module="tierwise",
        note="spans, metrics and cost only, as the peers: no task, no policy, no store",
    ),
    Candidate(
        name="openai-v2",
        package="opentelemetry-instrumentation-openai-v2",
        module="opentelemetry.instrumentation.openai_v2",
        needs=("opentelemetry-util-genai<1",),
        note="imports nothing newer than opentelemetry-util-genai 0.4b0, and httpx, which openai 3 does not install",
    ),
    Candidate(
        name="genai-openai",
        package="opentelemetry-instrumentation-genai-openai",
        module="opentelemetry.instrumentation.genai.openai",
    ),
    Candidate(
        name="openllmetry",
        package="opentelemetry-instrumentation-openai",
        module="opentelemetry.instrumentation.openai",
        note="OpenLLMetry; records content by default",
    ),
    Candidate(
        name="openinference",
        package="openinference-instrumentation-openai",
        module="openinference.instrumentation.openai",
        note="no metrics; records content by default",
    ),
    Candidate(name="logfire", package="logfire", module="logfire", note="records content by default"),
    Candidate(
        name="langfuse", package="langfuse", module="langfuse.openai", note="no metrics; records content by default"
    ),
    Candidate(
        name="ddtrace",
        package="ddtrace",
        module="ddtrace",
        note="with LLM Observability, without which it records no tokens; no metrics; records content by default",
    ),
    Candidate(
        name="sentry",
        package="sentry-sdk",
        module="sentry_sdk",
        note="no metrics; a scope for each concurrent call, as a web request has: in one scope they lose their tokens",
    ),
    Candidate(
        name="openlit",
        package="openlit",
        module="openlit",
        note="its HTTP client instrumentations are off; records content by default",
    ),
)


class RunError(Exception):
    """A command failed; the message holds its last words."""


# --- processes ---------------------------------------------------------------------------------------------------


class Processes:
    """Runs commands in process groups of their own, and leaves none behind."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def run(self, command: Sequence[str], *, cwd: Path, timeout_s: float, env: Mapping[str, str] | None = None) -> str:
        """Run a command to its end; returns its standard output. Raises RunError if it fails or takes too long."""
        with self._lock:
            if self._closed:
                raise RunError("stopped")
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env=clean_environment(cwd) if env is None else env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._running.add(process)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise RunError(f"took longer than {timeout_s:.0f} s") from None
        finally:
            self._end(process)
        if process.returncode != 0:
            raise RunError(last_words(err or out) or f"ended with {process.returncode}")
        return out

    def _end(self, process: subprocess.Popen[str]) -> None:
        """Kill what is left of the process's group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        with self._lock:
            self._running.discard(process)

    def close(self) -> None:
        """Start no more, and kill those that run."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for process in running:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)


def last_words(text: str) -> str:
    """The last line of an error output that says something, without this machine's folders."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("==")]
    errors = [line for line in lines if "Error" in line or "error" in line]
    words = (errors or lines or [""])[-1]
    return words.replace(str(CHECKOUT), ".").replace(str(Path.home()), "~")[:300]


def clean_environment(folder: Path) -> dict[str, str]:
    """This process's environment without what would configure a candidate; temporary files go to the folder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith((*FOREIGN, "PYTHON", "VIRTUAL_ENV"))}
    return kept | {"PYTHONHASHSEED": "0", "TMPDIR": str(folder)}


# --- environments ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A candidate in an environment where it records; `versions` by distribution, `problem` says what was tried before."""

    candidate: Candidate
    python: Path
    versions: Mapping[str, str]
    python_version: str
    recorded: Mapping[str, Mapping[str, int]]
    problem: str | None = None

    @property
    def openai(self) -> str:
        """The version of openai."""
        return self.versions["openai"]

    def run(self, processes: Processes, mode: str, options: Mapping[str, Any], **how: Any) -> dict[str, Any]:
        """Run the worker in a mode; returns its result. Raises RunError too where calls were made but not recorded."""
        result = run_worker(processes, self.python, self.candidate.name, mode, options, **how)
        if self.candidate.name != "bare" and result.get("spans", 0) < result.get("made", 0):
            raise RunError(f"{result['made']} calls were made, {result['spans']} spans arrived")
        return result

    def import_ms(self, processes: Processes, module: str) -> float:
        """Milliseconds to import a module in an interpreter that has done nothing else."""
        code = "import sys, time; t = time.perf_counter(); __import__(sys.argv[1]); print(time.perf_counter() - t)"
        with scratch() as folder:
            said = processes.run([str(self.python), "-I", "-c", code, module], cwd=folder, timeout_s=120)
        return float(said.split()[-1]) * 1000


def default_folder() -> Path:
    """Where environments are kept unless told otherwise: below the user's cache directory."""
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "tierwise" / "peers"


def install(processes: Processes, root: Path, candidate: Candidate, openai: str, *, refresh: bool) -> Path:
    """Make (or find) the environment of a candidate with this requirement on openai; returns its interpreter."""
    # the candidate first: where not all can be the newest, it should be
    wanted = [openai, SDK, *candidate.needs]
    if candidate.package:
        wanted.insert(0, str(CHECKOUT) if candidate.is_ours else candidate.package)
    version = ".".join(map(str, sys.version_info[:2]))
    key = hashlib.sha256(json.dumps([version, wanted]).encode()).hexdigest()[:10]
    name = candidate.package if candidate.is_ours else candidate.name
    folder = root / f"{name if candidate.package else 'yardstick'}-{key}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = folder / "installed"
    if done.exists() and not refresh and not candidate.is_ours:
        return python
    root.mkdir(parents=True, exist_ok=True)
    uv = shutil.which("uv")
    if uv is None:
        raise RunError("uv is not installed: https://docs.astral.sh/uv/ says how to get it")
    env = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "UV_PROJECT_ENVIRONMENT")}
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        command = [uv, "venv", "--quiet", "--no-project", "--python", sys.executable, str(folder)]
        processes.run(command, cwd=root, timeout_s=120, env=env)
    command = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(python)]
    if candidate.is_ours:
        command += ["--reinstall-package", "tierwise", "--refresh-package", "tierwise"]
    if refresh:
        command.append("--upgrade")
    processes.run([*command, *wanted], cwd=root, timeout_s=900, env=env)
    done.touch()
    return python


def run_worker(
    processes: Processes,
    python: Path,
    candidate: str,
    mode: str,
    options: Mapping[str, Any],
    *,
    timeout_s: float = 600,
    folder: Path | None = None,
    prefix: Sequence[str] = (),
) -> dict[str, Any]:
    """Run the worker in an environment; returns what it wrote. The folder, if given, is left to the caller."""
    with scratch() if folder is None else contextlib.nullcontext(folder) as place:
        command = [*prefix, str(python), "-B", str(HERE / "_peer_worker.py"), candidate, mode, str(place)]
        processes.run([*command, json.dumps(options)], cwd=place, timeout_s=timeout_s)
        result: dict[str, Any] = json.loads((place / "result.json").read_text(encoding="utf-8"))
        return result


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="tierwise-peers-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def prepare(processes: Processes, root: Path, candidate: Candidate, openai: str, *, refresh: bool) -> Environment:
    """Install a candidate and see whether it records. Raises RunError where it cannot be had, or records no plain call."""
    python = install(processes, root, candidate, openai, refresh=refresh)
    packages = ["openai", SDK, candidate.package, *(need.split("<")[0] for need in candidate.needs)]
    found = run_worker(processes, python, candidate.name, "versions", {"packages": [p for p in packages if p]})
    checked = run_worker(processes, python, candidate.name, "check", {})
    if checked["problem"]:
        raise RunError(checked["problem"])
    plain = checked["phases"]["plain"]
    if candidate.name != "bare" and plain["with_usage"] != plain["made"]:
        raise RunError(f"{plain['with_usage']} of {plain['made']} plain calls were recorded with their tokens")
    return Environment(
        candidate=candidate,
        python=python,
        versions=found["versions"],
        python_version=found["python"],
        recorded=checked["phases"],
    )


def prepare_with_newest(processes: Processes, root: Path, candidate: Candidate, *, refresh: bool) -> Environment:
    """As `prepare`, with the newest openai with which the candidate records; raises the first error if there is none."""
    problem: str | None = None
    for openai in (NEWEST, *OLDER):
        try:
            found = prepare(processes, root, candidate, openai, refresh=refresh)
        except RunError as error:
            problem = problem or str(error)
            if candidate.is_ours:
                break
            continue
        return Environment(
            candidate=found.candidate,
            python=found.python,
            versions=found.versions,
            python_version=found.python_version,
            recorded=found.recorded,
            problem=problem,
        )
    raise RunError(problem or "cannot be installed")
