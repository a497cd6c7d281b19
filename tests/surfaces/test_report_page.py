"""The report as a page: what it says, what it lets in, and how it gets to disk."""

from __future__ import annotations

import base64
import hashlib
import re
import stat
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from support.report_data import GEMINI, HAIKU, NOW, SONNET, call_row, call_rows, candidate, recommendation
from tierwise.core.recommendation import Reason
from tierwise.surfaces.report import write_report
from tierwise.surfaces.report.data import build

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&amp;🦊\u202e\x00\ud800" + "x" * 300
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """What a test asks about a page: elements with attributes, text by element, whether every element is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.text))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture
def report(tmp_path: Path) -> Page:
    """A report with one task of every verdict over three models."""
    tasks = {
        "summary": "KEEP",
        "constraint": "TRIAL",
        "sort-bug": "HOLD",
        "token-cost": "INSUFFICIENT",
        "strict-json": "PROMOTE",
    }
    items = [
        recommendation(task, verdict, runs_needed=12 if verdict == "INSUFFICIENT" else 0)
        for task, verdict in tasks.items()
    ]  # type: ignore[arg-type]
    path = write_report(
        calls=call_rows(),
        recommendations=items,
        path=tmp_path / "r.html",
        title="Five tasks",
        generated_at=NOW,
        store="/data/tierwise.db",
    )
    return Page(path)


def test_every_verdict_is_there_in_words(report: Page) -> None:
    """Each task shows its verdict as text, the change, its fallback, the reason and the saving."""
    for verdict in ("KEEP", "TRIAL", "HOLD", "INSUFFICIENT", "PROMOTE"):
        assert verdict in report.words
    assert "Change the model of 1 of 5 tasks: strict-json." in report.words
    assert f"{GEMINI} costs 90% less per success than {SONNET}." in report.words
    assert "$11.00 per 1,000 runs" in report.words
    assert f"fallback: {HAIKU}" in report.words
    assert "12 more runs needed" in report.words


def test_comparison_table_has_every_published_measure(report: Page) -> None:
    """The comparison table has every measure, models side by side; both Claude models fail strict JSON, gemini passes."""
    for measure in (
        "Runs", "Avg latency", "Median latency", "p95 latency", "Fastest", "Slowest", "Task score",
        r"Avg output size \(characters\)", "Non-stop finish reasons", "JSON validity", "Retries", "Cost", "Cost per success",
    ):  # fmt: skip
        assert re.search(rf'<th scope="row"[^>]*>{measure}</th>(<td.*?</td>){{3}}</tr>', report.source), measure
    row = re.search(r'<th scope="row" role="rowheader"><bdi>strict-json</bdi></th>(.*?)</tr>', report.source)
    assert row is not None
    verdicts = dict(re.findall(r'data-label="([^"]+)"><[^>]+>(pass|fail)<', row[1]))
    assert verdicts == {HAIKU: "fail", SONNET: "fail", GEMINI: "pass"}


def test_routes_say_why_a_change_is_made_and_why_to_whom() -> None:
    """The table of routes gives the first reason about the model in use, and the first one about the recommended one."""
    reasons = (
        Reason(code="refuted", text="sonnet is too slow.", candidate=SONNET),
        Reason(code="proof", text="haiku is cheap.", candidate=HAIKU),
        Reason(code="gain", text="gemini is fast.", candidate=GEMINI),
    )
    trial = recommendation("summary", "TRIAL", reasons=reasons[1:])
    kept = recommendation("other", "KEEP", reasons=reasons[1:])
    view = build(
        calls=[], recommendations=[recommendation(reasons=reasons), trial, kept], title="t", simulated=False, notes=(),
        generated_at=NOW, store=None, latency_scale=1.0,
    )  # fmt: skip
    assert [task.why for task in view.tasks] == [
        ("sonnet is too slow.", "gemini is fast."),
        ("gemini is fast.",),
        ("haiku is cheap.",),
    ]


def test_page_is_well_formed_and_accessible(report: Page) -> None:
    """Every element is closed, headings skip no level, each table has caption and scopes, ids are unique, links arrive."""
    assert report.open == []
    levels = [int(name[1]) for name, _ in report.elements if re.fullmatch("h[1-6]", name)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert len(report.all("table")) == len(report.all("caption")) == 13
    assert all("scope" in attributes for attributes in report.all("th"))
    ids = [attributes["id"] for _, attributes in report.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert all((link["href"] or "").removeprefix("#") in ids for link in report.all("a"))
    assert all(svg.get("aria-hidden") == "true" or svg.get("role") == "img" for svg in report.all("svg"))
    assert report.all("html")[0]["lang"] == "en"


def test_policy_allows_the_pages_own_style_and_scripts_and_nothing_else(report: Page) -> None:
    """The Content-Security-Policy names the hashes of the style sheet and both scripts; no handler, no address, no style
    attribute stands in the page."""
    policy = next(meta["content"] for meta in report.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")

    def digests(tag: str) -> str:
        found = re.findall(rf"<{tag}>(.*?)</{tag}>", report.source, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(t.encode()).digest()).decode()}'" for t in found)

    assert digests("script").count("sha256-") == 2
    assert policy == (
        f"default-src 'none'; style-src {digests('style')}; script-src {digests('script')}; base-uri 'none'; "
        "form-action 'none'"
    )
    assert [script for script in report.all("script") if script] == [{"type": "application/json", "id": "chart-data"}]
    names = {name for name, _ in report.elements}
    assert not names & {"iframe", "object", "embed", "img", "base", "link", "foreignobject", "use", "image"}
    attributes = {name for _, found in report.elements for name in found}
    assert not {name for name in attributes if name.startswith("on")}
    assert not attributes & {"style", "src", "srcset", "xlink:href", "action"}
    outside = re.sub(r"<script>.*?</script>", "", report.source, flags=re.DOTALL)
    assert not re.search(r"https?://|url\(|@import", outside)


def test_chart_library_comes_with_its_licence(report: Page) -> None:
    """The licence of the chart library stands in front of it, as it asks."""
    assert "The MIT License (MIT)" in report.source
    assert "Copyright (c) 2022 Leon Sorokin" in report.source


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    """Markup, control characters and length in task, model, reason, note and title change no element of the page."""

    def made(name: str, path: str) -> Page:
        item = recommendation(
            task=name,
            current=name,
            fallbacks=(name,),
            ladder=(name, name),
            candidates=(candidate(name, role="incumbent"), candidate(GEMINI)),
            reasons=(Reason(code=name, text=name),),
            input_hash=name,
        )
        rows = call_rows(tasks=(name,), models=(name, GEMINI), outcome=name)
        return Page(
            write_report(
                calls=rows,
                recommendations=[item],
                path=tmp_path / path,
                title=name,
                notes=[name],
                generated_at=NOW,
                store=name,
                simulated=True,
            )
        )

    plain, hostile = made("H" + "armless" * 20, "plain.html"), made(HOSTILE, "hostile.html")
    assert [name for name, _ in hostile.elements] == [name for name, _ in plain.elements]
    assert [sorted(found) for _, found in hostile.elements] == [sorted(found) for _, found in plain.elements]
    assert "<script>alert(1)</script>" in hostile.words
    assert "🦊" in hostile.words
    assert not set("\u202e\x00\ud800") & set(hostile.source)
    assert len(hostile.source) < 2 * len(plain.source)


def test_simulated_is_said_and_otherwise_not(tmp_path: Path, report: Page) -> None:
    """A simulated report says so at the top and in the footer; a real one does not."""
    path = write_report(
        calls=call_rows(), recommendations=[], path=tmp_path / "s.html", title="t", simulated=True, generated_at=NOW
    )
    assert "Simulated. These calls went to a simulated gateway" in Page(path).words
    assert "simulated gateway" not in report.words
    assert "Simulated no" in re.sub(r"\s+", " ", " ".join(report.text))


def test_footer_says_what_the_page_was_made_from(report: Page) -> None:
    """Store, number of calls, version, time and the hash of each decision's inputs are in the footer."""
    for words in ("/data/tierwise.db", "tierwise 0", "18 November 2026", "strict-json 9f2c1d7a0b"):
        assert words in report.words


def test_unknown_things_are_listed(report: Page) -> None:
    """What is only holding, and how many runs would prove it, stands under Not known yet."""
    listed = report.words[report.words.index("Not known yet", report.words.index("Task by task", 600)) :]
    assert f"Not proven for {GEMINI}: JSON valid rate (944 more runs)." in listed


def test_observational_evidence_and_missing_prices_are_named(tmp_path: Path) -> None:
    """Confounded evidence and runs without a price are listed with what to do about them."""
    item = recommendation(grade="observational")
    rows = call_rows(cost_usd=None)
    page = Page(write_report(calls=rows, recommendations=[item], path=tmp_path / "r.html", title="t", generated_at=NOW))
    assert "not compared on the same kind of traffic (observational)" in page.words
    assert f"{SONNET}. 10 runs without a known price" in page.words


def test_streams_without_token_counts_are_no_matter_of_prices(tmp_path: Path) -> None:
    """Answers without token counts are told apart from models without a price; errors are neither."""
    unknown = {"input_tokens": None, "output_tokens": None, "cost_usd": None}
    rows = [*call_rows(tasks=("summary",), models=(HAIKU,), **unknown), call_row(outcome="error", **unknown)]
    page = Page(write_report(calls=rows, recommendations=[], path=tmp_path / "r.html", title="t", generated_at=NOW))
    assert f"{HAIKU}. 2 answered runs without token counts" in page.words
    assert "without a known price" not in page.words
    assert f"{SONNET}. " not in page.words


def test_commands_in_reasons_are_code(tmp_path: Path) -> None:
    """What stands between backticks is shown as code, and nothing in it is markup."""
    item = recommendation(reasons=(Reason(code="x", text="compare with `tierwise bench <b>`; a lone ` stays"),))
    page = Page(write_report(calls=[], recommendations=[item], path=tmp_path / "r.html", title="t", generated_at=NOW))
    assert "compare with <code>tierwise bench &lt;b&gt;</code>; a lone ` stays" in page.source


def test_candidate_without_a_success_has_no_finite_cost(tmp_path: Path) -> None:
    """A candidate that never succeeded shows infinity with the reason, and the picture says that it is left out."""
    item = recommendation(candidates=(candidate(SONNET, role="incumbent", successes=0), candidate(GEMINI)))
    page = Page(write_report(calls=[], recommendations=[item], path=tmp_path / "r.html", title="t", generated_at=NOW))
    assert "no success yet" in page.words
    assert f"Without a success, so not in the picture: {SONNET}." in page.words


def test_empty_report_is_a_page(tmp_path: Path) -> None:
    """Without calls and recommendations there is still a page that says so."""
    page = Page(write_report(calls=[], recommendations=[], path=tmp_path / "r.html", title="t", generated_at=NOW))
    assert "Nothing is recorded yet" in page.words
    assert "Everything: there is not one run yet." in page.words


def test_scaled_latencies_stand_beside_the_measured_ones(tmp_path: Path) -> None:
    """With a scale the comparison table shows each latency twice and says what the second figure is."""
    path = write_report(
        calls=call_rows(duration_s=0.0565),
        recommendations=[],
        path=tmp_path / "r.html",
        title="t",
        generated_at=NOW,
        latency_scale=100,
    )
    page = Page(path)
    assert "the measured time × 100" in page.words
    assert "0.056\u00a0s" in page.source or "0.057\u00a0s" in page.source
    assert "5.65\u00a0s" in page.source


def test_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    """Two reports of the same data are equal byte by byte."""
    paths = [
        write_report(
            calls=call_rows(), recommendations=[recommendation()], path=tmp_path / name, title="t", generated_at=NOW
        )
        for name in "ab"
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_file_is_private_and_replaces_the_old_one_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report is readable by its owner alone; when writing fails, the old report stays and nothing else is left."""
    path = tmp_path / "deep" / "r.html"
    write_report(calls=[], recommendations=[], path=path, title="first", generated_at=NOW)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_report(calls=[], recommendations=[], path=path, title="second", generated_at=NOW)
    assert "first" in path.read_text(encoding="utf-8")
    assert [item.name for item in path.parent.iterdir()] == ["r.html"]
