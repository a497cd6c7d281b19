"""Suites: the built-in one, what a file may say, and what is wrong with a file, line by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tierwise.core.errors import ConfigError
from tierwise.instrument.parsing import parse_json
from tierwise.surfaces.bench.code import code_of, python_tests
from tierwise.surfaces.bench.suite import iter_checks, load_suite, read_suite

TASK = "name: s\ntasks:\n  a:\n    prompt: hi\n    checks:\n      - "


def passes(check: str, text: str) -> bool:
    """Whether an answer passes the only check of a suite."""
    suite = read_suite(TASK + check, where="s.yaml")
    result = suite.tasks[0].checks[0].run(text, parse_json)
    assert result is not None
    return result.passed


def test_built_in_suite_has_the_five_tasks_and_the_probe() -> None:
    """The developer suite: five tasks, strict JSON with a schema, and the probe with and without limits."""
    suite = load_suite("developer")
    assert [task.name for task in suite.tasks] == ["summary", "reasoning", "bug-fix", "token-cost", "strict-json"]
    assert suite.tasks[4].expects == "json"
    assert suite.tasks[4].schema is not None
    assert suite.probe is not None
    assert suite.probe.max_tokens == (64, 2048, None)
    assert [task.prompts[0].partition(":")[0] for task in suite.probe.tasks] == [
        "Say hello in one sentence.",
        "Return only JSON",
    ]


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        ("bullets: 2", "- a\n- b", "- a"),
        ("contains: yes", "oh yes", "oh no"),
        ("contains: {text: [YES, no], ignore_case: true}", "yes and no", "yes"),
        ("regex: '^[0-9]+$'", "12", "a"),
        ("equals_number: 6", "it is 6 minutes", "it is 5"),
        ("equals_number: {value: 9.9, tolerance: 0.05}", "$9.93", "$9.80"),
        ("json_schema: {type: object, required: [a]}", '{"a": 1}', "{}"),
        ("markdown_table: 2", "|a|b|\n|-|-|\n|1|2|", "|a|\n|-|\n|1|"),
        ("markdown_table: {columns: [a, b], min_rows: 2}", "|a|b|\n|-|-|\n|1|2|\n|3|4|", "|a|b|\n|-|-|\n|1|2|"),
        ("max_chars: 3", "abc", "abcd"),
        ("min_confidence: {field: sure}\n        threshold: 0.5", '{"sure": 0.7}', '{"sure": 0.2}'),
        ("{contains: [a, b], threshold: 0.5}", "a", "c"),
    ],
)
def test_each_check_by_name(check: str, right: str, wrong: str) -> None:
    """Every built-in check can be named in a suite and tells right from wrong."""
    assert passes(check, right)
    assert not passes(check, wrong)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "s.yaml:1:1: 'name' is missing"),
        ("name: s\ntasks: {}", "s.yaml:2:8: tasks: is empty"),
        ("name: s\ntasks:\n  a: {promt: hi}", "s.yaml:3:7: tasks.a.promt: unknown key; did you mean 'prompt'?"),
        ("name: s\ntasks:\n  a: {prompt: hi, expects: jsn}", "s.yaml:3:28: tasks.a.expects: 'jsn' is not known"),
        (TASK + "bullet: 5", "s.yaml:6:9: tasks.a.checks.0: unknown check 'bullet'; did you mean 'bullets'?"),
        (TASK + "bullets: many", "s.yaml:6:18: tasks.a.checks.0.bullets: needs a whole number"),
        (TASK + "bullets: 5\n        max_chars: 3", "a check is one name and its argument"),
        (TASK + "contains: {txt: a}", "unknown key 'txt'; did you mean 'text'?"),
        (TASK + "contains: {ignore_case: true}", "needs text"),
        (TASK + "contains: {text: a, ignore_case: 1}", "needs true or false"),
        (TASK + "equals_number: six", "needs a number"),
        (TASK + "equals_number: {tolerance: 1}", "needs value"),
        (TASK + "json_schema: a", "needs a JSON Schema"),
        (TASK + "json_schema: {type: nope}", "the JSON Schema is not valid"),
        (TASK + "regex: '('", "is not a regular expression"),
        (TASK + "regex: 5", "needs text, not 5"),
        (TASK + "python_tests: 'def'", "the tests are not Python"),
        (TASK + "min_confidence: high", "needs a mapping with field"),
        (TASK + "{bullets: 1, threshold: 2}", "needs a number between 0 and 1"),
        ("name: s\ntasks:\n  a: {prompt: hi, schema: {type: nope}}", "s.yaml:3:27: tasks.a.schema: the JSON Schema"),
        ("name: s\ntasks:\n  a: {prompt: hi, expects: text, schema: {}}", "a schema is for JSON answers"),
        ("name: s\ntasks:\n  a: {prompt: hi}\nprobe: {max_tokens: [0], prompts: {q: {prompt: x}}}", "at least 1"),
        ("name: s\ntasks:\n  token-budget-q: {prompt: hi}", "s.yaml:3:3: tasks.token-budget-q: names that begin with"),
        ("name: s\ntasks: [", "s.yaml:2:"),
    ],
)
def test_errors_name_the_place(text: str, message: str) -> None:
    """What is wrong with a suite is said with file, line, column and what to write instead."""
    with pytest.raises(ConfigError) as caught:
        read_suite(text, where="s.yaml")
    assert message in str(caught.value)
    assert all(line.startswith("s.yaml:") for line in str(caught.value).splitlines())


def test_all_errors_at_once() -> None:
    """A file with several faults is reported in one go, in order."""
    text = "name: s\ntasks:\n  a: {promt: hi}\n  b: {prompt: x, expects: y}\nextra: 1"
    with pytest.raises(ConfigError) as caught:
        read_suite(text, where="s.yaml")
    assert [line.split(":")[1] for line in str(caught.value).splitlines()] == ["3", "3", "4", "5"]


def test_prompts_take_turns_by_round() -> None:
    """With several prompts a round asks one of them, the same of every model, after the system message."""
    suite = read_suite("name: s\ntasks:\n  a: {prompt: [one, two], system: be brief}", where="s.yaml")
    asked = [suite.tasks[0].messages(number)[-1]["content"] for number in range(3)]
    assert asked == ["one", "two", "one"]
    assert suite.tasks[0].messages(0)[0] == {"role": "system", "content": "be brief"}


def test_equal_checks_are_both_kept() -> None:
    """Two checks of one kind get names of their own, so neither replaces the other."""
    suite = read_suite(TASK + "contains: a\n      - contains: b", where="s.yaml")
    assert [check.name for check in suite.tasks[0].checks] == ["contains", "contains 2"]


def test_code_checks_are_registered_only_when_allowed() -> None:
    """`python_tests` is left out of the checks to register unless code is allowed."""
    suite = load_suite("developer")
    names = [{check.name for _, check in iter_checks(suite, allow_code=allowed)} for allowed in (False, True)]
    assert names[1] - names[0] == {"python_tests"}


def test_tasks_can_be_chosen(tmp_path: Path) -> None:
    """A suite from a file, reduced to one of its tasks; an unknown task is refused with advice."""
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\ntasks:\n  a: {prompt: x}\n  b: {prompt: y}\n")
    suite = load_suite(str(path))
    assert [task.name for task in suite.only(["b"]).tasks] == ["b"]
    with pytest.raises(ConfigError, match="has no task 'c'; use one of a, b"):
        suite.only(["c"])


def test_unknown_suite_is_refused() -> None:
    """A name that is neither built in nor a file says what there is."""
    with pytest.raises(ConfigError, match=r"no suite 'nope'.*developer"):
        load_suite("nope")


@pytest.mark.parametrize(
    ("answer", "passed"),
    [
        ("Here:\n```python\ndef f(x):\n    return x + 1\n```\nDone.", True),
        ("```py\ndef f(x):\n    return x\n```", False),
        ("```python\ndef f(:\n```", False),
        ("def f(x): return x + 1", False),
        ("```python\nimport os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n```", False),
        ("```python\nx = bytearray(1 << 31)\ndef f(x):\n    return x + 1\n```", False),
    ],
)
def test_python_tests_run_the_code_of_an_answer(answer: str, passed: bool) -> None:
    """The answer's code runs with the tests; wrong, broken, missing, killed or greedy code does not pass."""
    assert python_tests("assert f(1) == 2")(answer) is passed


def test_python_tests_have_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code that never ends is ended and does not pass."""
    monkeypatch.setattr("tierwise.surfaces.bench.code.WALL_S", 0.3)
    assert python_tests("pass")("```python\nimport time\ntime.sleep(60)\n```") is False


def test_python_tests_see_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The code's environment is empty: no keys to read."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted")
    code = "```python\nimport os\nfound = os.environ.get('OPENAI_API_KEY')\n```"
    assert python_tests("assert found is None")(code)


def test_code_blocks_are_joined() -> None:
    """Several Python blocks count as one file; blocks in other languages do not count."""
    text = "```python\na = 1\n```\ntext\n```sh\nrm\n```\n~~~python3\nb = 2\n~~~"
    code = code_of(text)
    assert code is not None
    assert "a = 1" in code
    assert "b = 2" in code
    assert "rm" not in code
    assert code_of("no code") is None
