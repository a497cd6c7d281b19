"""Shell completion: commands, options and the names that the store, the policy and the route file know."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from support.report_data import GEMINI, HAIKU, SONNET, call, store_with
from tierwise.core.receipt import read_receipt, receipt_of, unit_of_run
from tierwise.surfaces.cli.group import COMMANDS, cli

NOW_NS = time.time_ns()
HOSTILE = ("$(touch owned)", "two words", "--store", "a;b", "new\nline", "quote'd", "`id`")
POLICY = f"""
tasks:
  summary: {{candidates: [{SONNET}, {HAIKU}]}}
  not-yet-called: {{candidates: [{HAIKU}]}}
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a policy, and a store with some calls, names that a shell would obey among them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tierwise.yaml").write_text(POLICY)
    calls = [
        call(started_at_ns=NOW_NS, task="summary"),
        call(started_at_ns=NOW_NS + 1, task="résumé", candidate=GEMINI),
        call(started_at_ns=NOW_NS + 2, task="of-a-run", run_id="r1"),
        *(call(started_at_ns=NOW_NS + 3, task=name, candidate=name) for name in HOSTILE),
    ]
    store_with(tmp_path / ".tierwise" / "tierwise.db", calls)
    return tmp_path


def shell(name: str) -> ShellComplete:
    """Click's class for a shell."""
    kind = get_completion_class(name)
    assert kind is not None
    return kind(cli, {}, "tierwise", "_TIERWISE_COMPLETE")


def offered(line: str) -> list[CompletionItem]:
    """What is offered for the last word of a line."""
    *words, last = line.split(" ")
    return shell("bash").get_completions(words, last)


def names(line: str) -> list[str]:
    """The words that are offered."""
    return [item.value for item in offered(line)]


def test_commands_and_options() -> None:
    """All commands, those that begin so, subcommands, options, and the words an option takes."""
    assert names("") == list(COMMANDS)
    assert names("pr") == ["promote", "prices"]
    assert names("prices ") == ["catalogue", "compare", "missing", "reprice", "search"]
    assert "--check" in names("plan --ch")
    assert "--version" in names("--v")
    assert names("calls --outcome json_i") == ["json_invalid"]
    assert names("schema --output pla") == ["plan"]


def test_offering_commands_imports_none() -> None:
    """The first tab costs no more than the start of Python."""
    code = (
        "import sys\nfrom click.shell_completion import BashComplete\nfrom tierwise.surfaces.cli.group import COMMANDS, cli\n"
        "assert BashComplete(cli, {}, 'tierwise', 'X').get_completions([], 'p')\n"
        "assert not [module for module, _ in COMMANDS.values() if module in sys.modules]\nassert 'pydantic' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("line", ["plan ", "calls --task ", "rollback ", "abort ", "promote ", "history --task "])
def test_tasks(line: str) -> None:
    """Recorded tasks and those of the policy; none that a shell would not take as a plain word."""
    assert names(line) == ["of-a-run", "résumé", "summary", "not-yet-called"]


def test_tasks_on_the_line_are_not_offered_again() -> None:
    """A command for several tasks offers the others."""
    assert names("plan summary ") == ["of-a-run", "résumé", "not-yet-called"]
    assert names("apply summary n") == ["not-yet-called"]


def test_models() -> None:
    """Candidates of the policy and of the latest calls; of one task's those of its policy; in a list the last one."""
    assert names("calls --model ") == [SONNET, HAIKU, GEMINI]
    assert names("promote summary ") == [SONNET, HAIKU]
    assert names("prices compare gem") == [GEMINI]
    assert names(f"bench --models {GEMINI},claude-s") == [f"{GEMINI},{SONNET}"]
    assert names(f"bench --models {SONNET},{HAIKU},{GEMINI},") == []


def test_receipts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Receipts of the latest calls name the same call as the application's would; a call of a run is not one by itself."""
    monkeypatch.setenv("TIERWISE_RECEIPT_KEY", "k" * 32)
    found = [item for item in offered("feedback ") if item.help and item.help.startswith(("summary", "résumé"))]
    assert [item.help.split(", ")[:3] for item in found if item.help] == [
        ["résumé", GEMINI, "success"],
        ["summary", SONNET, "success"],
    ]
    read = [read_receipt(item.value, keys=(b"k" * 32,), now_s=time.time()) for item in found]
    wanted = receipt_of(call(started_at_ns=NOW_NS, task="summary"))
    assert read[1].unit == wanted.unit
    assert unit_of_run("of-a-run", "r1", NOW_NS + 2) not in {one.unit for one in read}


def test_options_before_the_word_count(tmp_path: Path) -> None:
    """A store that is named on the line is the one whose names are offered."""
    store_with(tmp_path / "other.db", [call(task="elsewhere")])
    assert names("plan --store other.db e") == ["elsewhere"]
    assert names("plan --store none.db ") == ["summary", "not-yet-called"]


def test_what_cannot_be_read_is_quiet(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Broken files, a store that is off or missing: fewer names, no message, nothing made."""
    (project / "tierwise.yaml").write_text("tasks: [")
    assert names("plan s") == ["summary"]
    (project / ".tierwise" / "routes.json").write_text("{")
    assert names("plan s") == ["summary"]
    (project / ".tierwise" / "tierwise.db").write_bytes(b"no store" * 1000)
    assert names("plan ") == names("feedback ") == names("calls --model ") == []
    assert names("plan --store off ") == names("feedback --store off ") == []
    assert names("plan --config gone.yaml ") == []
    assert names("plan --store missing.db ") == []
    assert not (project / "missing.db").exists()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "answer", "script"),
    [
        ("bash", "plain,promote", "complete -o nosort -F _tierwise_completion tierwise"),
        ("zsh", "plain\npromote\nMake a candidate", "compdef _tierwise_completion tierwise"),
        ("fish", "plain,promote\tMake a candidate", "complete --no-files --command tierwise"),
    ],
)
def test_each_shell_has_its_form(name: str, answer: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script that a shell evaluates, and the answer that the script then reads."""
    assert script in shell(name).source()
    monkeypatch.setenv("COMP_WORDS", "tierwise prom")
    monkeypatch.setenv("COMP_CWORD", "prom" if name == "fish" else "1")
    assert answer in shell(name).complete()


def test_real_bash() -> None:
    """Bash, told to as the help says, completes a command and then a task; a hostile name is not run."""
    lines = """
        eval "$(_TIERWISE_COMPLETE=bash_source tierwise)"
        complete -p tierwise
        COMP_WORDS=(tierwise prom); COMP_CWORD=1; _tierwise_completion tierwise; echo "${COMPREPLY[@]}"
        COMPREPLY=(); COMP_WORDS=(tierwise plan s); COMP_CWORD=2; _tierwise_completion tierwise; echo "${COMPREPLY[@]}"
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "--norc", "-c", lines], capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["complete -o nosort -F _tierwise_completion tierwise", "promote", "summary"]
    assert not Path("owned").exists()
