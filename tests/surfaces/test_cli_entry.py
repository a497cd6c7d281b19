"""The console entry: missing extra, exit codes, lazy commands, help, errors without tracebacks, closed pipes."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tierwise.core.errors import StoreError
from tierwise.surfaces.cli import group
from tierwise.surfaces.cli.common import Duration, clean, confirm, emit_json, money, percent, seconds
from tierwise.surfaces.cli.group import COMMANDS, cli


def run(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own."""
    environment = {**os.environ, "PYTHONWARNINGS": "error", **environ}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)


def test_without_the_extra_it_says_how_to_install() -> None:
    """Without click the command prints one hint and exits 2."""
    done = run("import sys; sys.modules['click'] = None; from tierwise.surfaces.cli.entry import main; main()")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "pip install 'tierwise[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_loads_no_command() -> None:
    """`tierwise --help` lists every command without importing one."""
    done = run(
        "import sys\nfrom tierwise.surfaces.cli.group import COMMANDS, cli\n"
        "try: cli.main(['--help'], prog_name='tierwise')\n"
        "except SystemExit: pass\n"
        "print(*[m for m, _ in COMMANDS.values() if m in sys.modules], 'pydantic' in sys.modules, file=sys.stderr)"
    )
    assert done.stderr.strip() == "False"
    for name, (_, text) in COMMANDS.items():
        assert name in done.stdout
        assert text.split()[0] in done.stdout


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help_with_an_example(name: str) -> None:
    """Each command explains itself, and its help shows how to call it."""
    command = import_module(COMMANDS[name][0]).command
    assert isinstance(command, click.Command)
    done = CliRunner().invoke(cli, [name, "--help"])
    assert done.exit_code == 0
    assert "Example" in done.output
    assert f"tierwise {name}" in done.output


def test_version_is_printed() -> None:
    """`tierwise --version` prints name and version."""
    done = CliRunner().invoke(cli, ["--version"])
    assert done.exit_code == 0
    assert done.output.startswith("tierwise ")


@pytest.mark.parametrize("arguments", [["nonsense"], ["plan", "--nonsense"], ["plan", "--since", "soon"]])
def test_wrong_use_exits_2(arguments: list[str]) -> None:
    """Unknown commands, options and values are wrong use."""
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 2
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plna", "did you mean plan?"),
        ("stat", "did you mean status"),
        ("zzz", "`tierwise --help` lists"),
        ("a\x1bb", "\\x1b"),
    ],
)
def test_an_unknown_command_leads_on(name: str, said: str) -> None:
    """What may have been meant is named, else where to look."""
    done = CliRunner().invoke(cli, [name])
    assert done.exit_code == 2
    assert said in done.stderr
    assert "\x1b" not in done.stderr


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """A command that raises what the test puts into the list."""
    raised: list[BaseException] = []

    @click.command("schema")
    def command() -> None:
        raise raised[0]

    monkeypatch.setattr(group, "import_module", lambda _: type("Module", (), {"command": command}))
    return raised


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (StoreError("no \x1b[31mred"), 2, "error: no \\x1b[31mred"),
        (
            PermissionError(13, "Permission denied", "/x/y"),
            2,
            "error: /x/y: Permission denied; check its owner and rights",
        ),
        (OSError(28, "No space left on device"), 2, "error: No space left on device; free some space"),
        (
            NotADirectoryError(20, "Not a directory", "/x/.y.yaml.ab_12cde.tmp"),
            2,
            "error: /x/y.yaml: Not a directory; a part",
        ),
        (OSError(99, "Something else", b"/x/z"), 2, "error: /x/z: Something else; check the path"),
        (OSError("no number"), 2, "error: no number"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.Abort(), 130, "interrupted"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_errors_become_messages_and_codes(
    failing: list[BaseException], error: BaseException, code: int, text: str
) -> None:
    """What people can cause is one message on stderr and its exit code, never a traceback."""
    failing.append(error)
    done = CliRunner().invoke(cli, ["schema"])
    assert done.exit_code == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_debug_shows_the_traceback(failing: list[BaseException], monkeypatch: pytest.MonkeyPatch) -> None:
    """TIERWISE_DEBUG=1 shows where an error came from."""
    monkeypatch.setenv("TIERWISE_DEBUG", "1")
    failing.append(StoreError("x"))
    assert "Traceback" in CliRunner().invoke(cli, ["schema"]).stderr


def test_a_fault_of_ours_exits_2_and_asks_for_a_report(
    failing: list[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected exception is never exit 1, which means a finding."""
    monkeypatch.delenv("TIERWISE_RAISE")
    failing.append(RuntimeError("boom"))
    done = CliRunner().invoke(cli, ["schema"])
    assert done.exit_code == 2
    assert "please report it" in done.stderr
    assert "boom" in done.stderr


def test_a_closed_pipe_is_quiet() -> None:
    """`tierwise schema | head -c 1` prints no complaint."""
    program = [sys.executable, "-m", "tierwise.surfaces.cli.entry", "schema"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.parametrize("arguments", [["--help"], ["schema"]])
def test_a_full_disk_is_said(arguments: list[str]) -> None:
    """Output that cannot be written is one message and exit code 2, for the help too."""
    program = [sys.executable, "-m", "tierwise.surfaces.cli.entry", *arguments]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["error: No space left on device; free some space, or name another place"]


def test_output_to_a_pipe_has_no_colour(tmp_path: Path) -> None:
    """Colour belongs to terminals: redirected errors are plain text."""
    done = subprocess.run(
        [sys.executable, "-m", "tierwise.surfaces.cli.entry", "validate", str(tmp_path / "no.yaml")],
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert b"\x1b" not in done.stdout + done.stderr


def test_numbers_are_written_for_people() -> None:
    """Money keeps three significant digits, shares are percent, times have their unit, nothing is a dash."""
    assert [money(value) for value in (0.00123, 12.345, 0, None, float("inf"), -0.5)] == [
        "$0.00123", "$12.35", "$0", "–", "–", "-$0.500",
    ]  # fmt: skip
    assert (percent(0.975), percent(None)) == ("97.5 %", "–")
    assert (seconds(0.25), seconds(1.25), seconds(None)) == ("250 ms", "1.25 s", "–")


def test_durations_are_read() -> None:
    """30d, 12h and all are windows."""
    kind = Duration()
    assert [kind.convert(text, None, None) for text in ("30d", "12h", "90m", "all")] == [2592000, 43200, 5400, None]


def test_hostile_text_cannot_drive_a_terminal() -> None:
    """Control, direction and lone surrogate characters are shown, not sent."""
    assert clean("a\x1b]0;x\x07\u202eb\ud800\n") == "a\\x1b]0;x\\x07\\u202eb\\ud800\\x0a"


def test_json_output_is_always_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Infinities become null, paths text, and lone surrogates do not break the output."""
    emit_json({"a": float("inf"), "b": Path("x"), "c": ("\ud800",)})
    assert capsys.readouterr().out == '{\n  "a": null,\n  "b": "x",\n  "c": [\n    "\\ud800"\n  ]\n}\n'


def test_confirmation_needs_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal only --yes answers."""
    monkeypatch.setattr(sys, "stdin", open(os.devnull, encoding="utf-8"))  # noqa: SIM115
    assert confirm("Really?", yes=True)
    with pytest.raises(Exception, match="pass --yes"):
        confirm("Really?", yes=False)
    sys.stdin.close()


def test_run_does_not_take_its_own_mistyped_option_for_a_program() -> None:
    """What begins with a dash before the program is an option of ours, and not one that there is."""
    done = CliRunner().invoke(cli, ["run", "--taks", "chat", "app.py"], prog_name="tierwise")
    assert done.exit_code == 2
    assert "no such option: --taks" in done.output
