"""`tierwise prices`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from support.commands import tierwise
from support.report_data import call, store_with
from tierwise.evidence import SqliteStore
from tierwise.pricing.catalogue import describe

POLICY = "prices:\n  house-model: {input: 2, output: 10}\ntasks:\n  summary: {candidates: [house-model]}\n"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Two unpriced calls of a model of the house, one priced by its provider, one from the catalogue; a policy with prices."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tierwise.yaml").write_text(POLICY, encoding="utf-8")
    calls = [
        *(call(candidate="house-model", provider="gateway.local", cost_usd=None, cost_source=None) for _ in range(2)),
        call(candidate="house-model", provider="gateway.local", cost_usd=0.5, cost_source="provider"),
        call(candidate="gpt-4o-mini", cost_usd=0.001),
        call(candidate="nobody-knows", provider="gateway.local", cost_usd=None, cost_source=None),
    ]
    return str(store_with(tmp_path / "t.db", calls))


def test_rates_in_force_of_called_models(store: str) -> None:
    """Without a command, every called model is listed with calls, rates and where they come from."""
    result = tierwise("prices", "--store", store)
    assert result.exit_code == 0, result.stderr
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert "override" in lines["gateway.local/house-model"]
    assert "$10" in lines["gateway.local/house-model"]
    assert "genai-prices" in lines["openai/gpt-4o-mini"]
    assert "no price known" in lines["gateway.local/nobody-knows"]
    found = {item["model"]: item for item in json.loads(tierwise("prices", "--store", store, "--json").stdout)}
    assert found["gateway.local/house-model"]["calls"] == 3
    assert found["gateway.local/house-model"]["rates_usd_per_million_tokens"][0]["input"] == 2
    assert found["gateway.local/nobody-knows"]["rates_usd_per_million_tokens"] is None


@pytest.mark.parametrize("form", [["missing"], ["--missing"]])
def test_missing_lists_unpriced_models(store: str, form: list[str]) -> None:
    """Models whose calls have no cost are listed with their number, and whether a price is known by now."""
    found = json.loads(tierwise("prices", *form, "--store", store, "--json").stdout)
    assert found == [
        {"provider": "gateway.local", "model": "house-model", "calls": 2, "known_now": True},
        {"provider": "gateway.local", "model": "nobody-knows", "calls": 1, "known_now": False},
    ]
    result = tierwise("prices", *form, "--store", store)
    assert "tierwise prices reprice" in result.stderr


def test_reprice_sets_what_is_known_and_keeps_what_providers_said(store: str) -> None:
    """A dry run changes nothing and foretells what repricing does: house calls get 100 × 2 + 50 × 10 per million."""
    foretold = json.loads(tierwise("prices", "reprice", "--dry-run", "--store", store, "--json").stdout)
    with SqliteStore.open(store, read_only=True) as opened:
        assert sum(row.cost_usd is None for row in opened.calls()) == 3
    done = json.loads(tierwise("prices", "reprice", "--store", store, "--json").stdout)
    assert foretold["dry_run"] is True
    assert {key: done[key] for key in ("calls", "cost_before_usd", "cost_after_usd")} == {
        key: foretold[key] for key in ("calls", "cost_before_usd", "cost_after_usd")
    }
    with SqliteStore.open(store, read_only=True) as opened:
        costs = [row.cost_usd for row in opened.calls(model="house-model")]
        evidence = sum(row.evidence.cost_sum for row in opened.evidence() if row.key.candidate == "house-model")
    assert costs == [pytest.approx(0.0007), pytest.approx(0.0007), 0.5]
    assert evidence == pytest.approx(0.5014)
    again = tierwise("prices", "--reprice", "--store", store)
    assert again.stdout.startswith("0 calls changed")


def test_search_finds_by_every_word(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every word must occur in provider or name; nothing found is said, not an error; no store is needed."""
    monkeypatch.chdir(tmp_path)
    found = json.loads(tierwise("prices", "search", "OPENAI", "gpt-4o-mini", "--json").stdout)
    assert "openai/gpt-4o-mini" in [item["model"] for item in found]
    assert all("openai" in item["model"] or "openai" in item["name"].lower() for item in found)
    assert "openai/gpt-4o-mini" in tierwise("prices", "search", "gpt-4o-mini").stdout
    nothing = tierwise("prices", "search", "no-such-model-anywhere")
    assert (nothing.exit_code, nothing.stdout) == (0, "")
    assert "no model in genai-prices" in nothing.stderr


def test_compare_puts_two_models_side_by_side(store: str) -> None:
    """Rates of both, what 1,000 calls cost, and how many times dearer the second is."""
    arguments = ("prices", "compare", "house-model", "gpt-4o-mini", "--input-tokens", "1000", "--output-tokens", "100")
    document = json.loads(tierwise(*arguments, "--json").stdout)
    assert document["models"][0]["cost_per_1000_calls_usd"] == pytest.approx(3.0)
    assert document["ratio"] == pytest.approx(document["models"][1]["cost_per_1000_calls_usd"] / 3.0)
    result = tierwise(*arguments)
    assert "$3.00" in result.stdout
    assert "times as much as house-model" in result.stderr


def test_wrong_use_is_said(store: str, tmp_path: Path) -> None:
    """Unknown models, contradictory options, empty and missing stores: a message and exit code 2."""
    unknown = tierwise("prices", "compare", "nobody-knows", "house-model")
    assert unknown.exit_code == 2
    assert "no price is known for 'nobody-knows'" in unknown.stderr
    assert tierwise("prices", "--missing", "--reprice").exit_code == 2
    assert tierwise("prices", "--json", "missing").exit_code == 2
    empty = str(store_with(tmp_path / "empty.db", []))
    for arguments in (("prices",), ("prices", "reprice")):
        result = tierwise(*arguments, "--store", empty)
        assert result.exit_code == 2
        assert "no calls recorded yet" in result.stderr
    assert tierwise("prices", "missing", "--store", str(tmp_path / "none.db")).exit_code == 2


def test_the_catalogue_says_how_current_it_is() -> None:
    """Package, models, the newest change in force and the next one known: of the installed catalogue, at any date."""
    before, now = describe(datetime(2020, 1, 1, tzinfo=UTC)), describe(datetime.now(UTC))
    assert before.latest_change is None
    assert before.next_change is not None
    assert now.latest_change is not None
    assert before.next_change <= now.latest_change <= datetime.now(UTC).date()
    done = tierwise("prices", "catalogue")
    assert done.exit_code == 0
    assert done.stdout.startswith(f"{now.version}: {now.models:,} models of {now.providers} providers")
    assert str(now.latest_change) in done.stdout
    assert json.loads(tierwise("prices", "catalogue", "--json").stdout)["latest_change"] == str(now.latest_change)
