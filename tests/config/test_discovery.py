"""Finding the policy, the project's root, the store, the routes and the audit log."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tierwise.config import (
    audit_path,
    find_config,
    find_root,
    is_probe,
    other_stores,
    read_settings,
    route_path,
    store_path,
)
from tierwise.core.errors import ConfigError


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with a policy at its root and a folder two levels down."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "tierwise.yaml").write_text("tasks: {}\n")
    return tmp_path


def test_config_is_argument_then_environment_then_nearest(project: Path) -> None:
    """The first of argument, TIERWISE_CONFIG and the nearest tierwise.yaml upward wins."""
    other, third = project / "other.yaml", project / "third.yaml"
    for path in (other, third):
        path.write_text("")
    start = project / "a" / "b"
    assert find_config(environ={}, start=start) == project / "tierwise.yaml"
    assert find_config(environ={"TIERWISE_CONFIG": str(other)}, start=start) == other
    assert find_config(third, environ={"TIERWISE_CONFIG": str(other)}, start=start) == third


def test_no_config_is_fine_and_a_named_one_must_exist(tmp_path: Path) -> None:
    """Nothing found is `None`; a name that leads nowhere is an error that says who named it."""
    assert find_config(environ={}, start=tmp_path) is None
    with pytest.raises(ConfigError, match="does not exist; TIERWISE_CONFIG must name"):
        find_config(environ={"TIERWISE_CONFIG": str(tmp_path / "x.yaml")}, start=tmp_path)
    with pytest.raises(ConfigError, match="is not a file; config"):
        find_config(tmp_path, environ={}, start=tmp_path)


def test_root_is_the_nearest_project_folder(project: Path) -> None:
    """A pyproject.toml or tierwise.yaml marks the root, the nearest one counts."""
    assert find_root(project / "a" / "b") == project
    (project / "a" / "pyproject.toml").write_text("")
    assert find_root(project / "a" / "b") == project / "a"


def test_store_is_argument_then_environment_then_root(project: Path) -> None:
    """The store is where it was named, else in the root's .tierwise folder; `off` is none."""
    start = project / "a"
    assert store_path(environ={}, start=start) == project / ".tierwise" / "tierwise.db"
    assert store_path(environ={"TIERWISE_STORE": "/x/y.db"}, start=start) == Path("/x/y.db")
    assert store_path(environ={"TIERWISE_STORE": "off"}, start=start) is None
    assert store_path("OFF", environ={"TIERWISE_STORE": "/x/y.db"}, start=start) is None
    assert store_path(project / "z.db", environ={"TIERWISE_STORE": "off"}, start=start) == project / "z.db"
    assert store_path("~/s.db", environ={}, start=start) == Path.home() / "s.db"


def test_store_without_a_project_is_in_the_state_folder(tmp_path: Path) -> None:
    """Outside any project the user's state folder is used."""
    found = store_path(environ={"XDG_STATE_HOME": "/state", "LOCALAPPDATA": "/state"}, start=tmp_path)
    expected = {"darwin": Path.home() / "Library/Application Support/tierwise"}.get(
        sys.platform, Path("/state/tierwise")
    )
    assert found == expected / "tierwise.db"


def test_a_folder_that_cannot_be_written_is_passed_over(
    project: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy on a read-only mount does not stop recording: the project's root is next; a store there is used."""
    mount = tmp_path_factory.mktemp("mount")
    config = mount / "tierwise.yaml"
    config.write_text("")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != mount)
    assert store_path(environ={}, start=project, config=config) == project / ".tierwise" / "tierwise.db"
    (mount / ".tierwise").mkdir()
    (mount / ".tierwise" / "tierwise.db").write_bytes(b"")
    assert store_path(environ={}, start=project, config=config) == mount / ".tierwise" / "tierwise.db"


def test_stores_that_a_policy_file_has_moved_away_from(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Default places that hold a store and are not in force are known, nearest first; a store that was named has none."""
    state = tmp_path_factory.mktemp("state")
    environ = {"XDG_STATE_HOME": str(state), "LOCALAPPDATA": str(state)}
    start = project / "a"
    store = store_path(environ=environ, start=start)
    assert other_stores(store, environ=environ, start=start) == ()
    before = store_path(environ=environ, start=state)
    assert before is not None
    nested = start / ".tierwise" / "tierwise.db"
    for place in (before, nested):
        place.parent.mkdir(parents=True)
        place.touch()
    assert other_stores(store, environ=environ, start=start) == (nested, before)
    assert other_stores(before, environ=environ, start=state) == ()
    assert other_stores(project / "mine.db", environ=environ, start=start) == ()
    assert other_stores(None, environ=environ, start=start) == ()


def test_tasks_of_the_probe_are_those_of_a_session() -> None:
    """A name alone does not make a probe: an application may call its own task so."""
    assert is_probe("token-budget-hello", "bench-1")
    assert not is_probe("token-budget-hello", "")
    assert not is_probe("summary", "bench-1")


def test_routes_and_audit_log_are_beside_the_store() -> None:
    """routes.json and audit.jsonl live beside the store; TIERWISE_ROUTES moves both."""
    assert route_path(Path("/s/t.db"), environ={}) == Path("/s/routes.json")
    assert audit_path(Path("/s/routes.json")) == Path("/s/audit.jsonl")
    moved = route_path(Path("/s/t.db"), environ={"TIERWISE_ROUTES": "/shared/fleet.json"})
    assert (moved, audit_path(moved)) == (Path("/shared/fleet.json"), Path("/shared/fleet.audit.jsonl"))


def test_settings_hold_everything(project: Path) -> None:
    """`read_settings` decides every path at once; with the store off routes stay in the project's folder."""
    settings = read_settings(environ={"TIERWISE_STORE": "off"}, start=project / "a")
    assert settings.config_path == project / "tierwise.yaml"
    assert settings.store_path is None
    assert settings.routes_path == project / ".tierwise" / "routes.json"
    assert settings.audit_path == project / ".tierwise" / "audit.jsonl"


def test_discovery_loads_neither_pydantic_nor_yaml() -> None:
    """Without a policy file nothing heavy is imported."""
    code = "import sys, tierwise.config as c; c.read_settings(); print({'pydantic', 'ruamel.yaml'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
