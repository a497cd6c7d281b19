"""Hostile and broken YAML: bounded, never an object, always with a place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tierwise.config import check_policy, check_text
from tierwise.core.errors import ConfigError


def first(text: str) -> str:
    """The first error of a text, without the file's name."""
    return str(check_text(text, name="f").errors[0]).removeprefix("f:")


def test_alias_bomb_is_stopped() -> None:
    """Aliases that would grow to billions of values are refused while they are still few."""
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    text += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))
    assert any("aliases grow beyond" in str(error) for error in check_text(text).errors)


def test_recursive_alias_is_stopped() -> None:
    """A value that contains itself is refused."""
    assert any("aliases grow beyond" in str(error) for error in check_text("tiers: &a {b: *a}").errors)


def test_deep_nesting_is_refused_with_its_place() -> None:
    """Nesting that would exhaust the stack is refused by its depth."""
    assert first("a: " + "[" * 5000) == "1:51: nested deeper than 50 levels; a policy needs about six"


def test_brackets_are_not_read_beyond_the_bound() -> None:
    """Reading stops at the bracket that is one too many: what follows, on the same line too, is not looked at."""
    assert "nested deeper than 50 levels" in first("[" * 200 + '"never closed')
    assert "nested deeper than 50 levels" in first("{a: " * 200 + "\t@")


def test_too_many_values_are_refused_before_any_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long flat file ends in a message at the value that is one too many."""
    monkeypatch.setattr("tierwise.config.yamlfile.MAX_NODES", 100)
    assert first("a: [" + "1, " * 300 + "1]") == "1:593: more than 100 values; a policy has some hundred"


def test_tags_build_nothing() -> None:
    """A tag is an error and never runs code."""
    evil = "tiers: !!python/object/apply:os.system ['true']"
    assert "tag !!python/object/apply:os.system is not supported" in first(evil)
    assert "tag !x is not supported" in first("tiers: !x {}")


def test_duplicate_keys_name_both_places() -> None:
    """A key given twice is an error at the second that names the first."""
    assert first("tasks: {}\ntiers: {}\ntasks: {}") == "3:1: key 'tasks' is given twice (first in line 1); keep one"


def test_merge_keys_and_anchors_work() -> None:
    """Shared settings by anchor and `<<` are merged, and the own keys win."""
    text = (
        "tasks:\n  a: &base {candidates: [m], min_runs: 5, margin: 1%}\n"
        "  b: {<<: *base, min_runs: 7}\n  c: {<<: [{margin: 2%}, *base]}\n"
    )
    policy = check_text(text).policy
    assert policy is not None
    assert (policy.tasks["b"].min_runs, policy.tasks["b"].margin) == (7, 0.01)
    assert (policy.tasks["c"].min_runs, policy.tasks["c"].margin) == (5, 0.02)
    assert any("1:17: <<: needs a mapping" in str(error) for error in check_text("tasks: {b: {<<: 3}}").errors)


def test_an_error_in_merged_settings_points_to_where_they_are_written() -> None:
    """The place of a wrong merged value is its own line."""
    assert (
        first("tasks:\n  a:\n    <<: {min_runs: x}\n    candidates: [m]")
        == "3:20: tasks.a.min_runs: needs a whole number"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tasks: {t: [}", "1:13:"),
        ("a: b: c", "put the text in quotes"),
        ("tasks:\n\tt: 1", "spaces, not tabs"),
        ("tasks:\n  *: {}", 'with quotes: "*"'),
        ("a: 1\n---\nb: 2", "2:1: a second document starts here"),
        ("tiers: \x01", "1:8: character"),
        ("- a\n- b", "a policy is a mapping"),
        ("just text", "a policy is a mapping"),
        ("? [a]\n: b", "a key must be plain text"),
    ],
)
def test_wrong_syntax_says_where_and_what_to_do(text: str, expected: str) -> None:
    """Syntax errors carry line, column and the next step."""
    assert expected in first(text)


def test_numbers_stay_bounded() -> None:
    """A number of a million digits is an error, found at once."""
    assert "more than 40 digits" in first("defaults: {min_runs: " + "9" * 1_000_000 + "}")


@pytest.mark.parametrize("text", ["", "# only a comment\n", "tasks:\n"])
def test_empty_files_are_empty_policies(text: str) -> None:
    """A file without content is valid and says that it has no tasks."""
    findings = check_text(text)
    assert findings.policy is not None
    assert findings.policy.tasks == {}
    assert "no tasks" in findings.warnings[0].message


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    """Missing, too large and wrongly encoded files are ConfigErrors with the file's name."""
    with pytest.raises(ConfigError, match=r"no\.yaml: cannot be read"):
        check_policy(tmp_path / "no.yaml")
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * (1 << 21))
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        check_policy(large)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"tiers: {}\n# \xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml:2:3: not UTF-8"):
        check_policy(latin)


def test_byte_order_mark_and_crlf_are_fine(tmp_path: Path) -> None:
    """Files written on Windows load."""
    path = tmp_path / "tierwise.yaml"
    path.write_bytes(b"\xef\xbb\xbftasks:\r\n  t: {candidates: [m]}\r\n")
    assert check_policy(path).errors == ()
