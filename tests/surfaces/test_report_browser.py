"""The report in a real Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from support.report_data import GEMINI, NOW, SONNET, call_rows, candidate, recommendation
from tierwise.core.recommendation import Reason
from tierwise.surfaces.report import write_report

pytestmark = pytest.mark.browser

HOSTILE = (
    "<script>document.title='owned'</script><img src='https://example.invalid/x' onerror=\"document.title='owned'\">🦊"
    + "y" * 300
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The system's Chromium, headless."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        yield browser
        browser.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_report_opens_without_errors_or_requests(chromium: Browser, tmp_path: Path, width: int, scheme: str) -> None:
    """Title right, no console message, no request but the file, styled, nothing wider than the window, hostile names inert."""
    item = recommendation(
        task=HOSTILE,
        current=HOSTILE,
        fallbacks=(HOSTILE,),
        candidates=(
            candidate(HOSTILE, role="incumbent", cost=0.012),
            candidate(GEMINI),
            candidate(SONNET, successes=0),
        ),
        reasons=(Reason(code="gain", text=HOSTILE),),
    )
    path = write_report(
        calls=[*call_rows(), *call_rows(tasks=(HOSTILE,), models=(HOSTILE,))],
        recommendations=[item, recommendation()],
        path=tmp_path / "report.html",
        title="Five tasks <b>& three models</b>",
        notes=[HOSTILE],
        generated_at=NOW,
        simulated=True,
    )
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
    console: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: console.append(message.text))
    page.on("pageerror", lambda error: console.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    assert page.title() == "Five tasks <b>& three models</b>"
    assert console == []
    assert requests == [path.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("document.images.length") == 0
    assert page.evaluate("[...document.scripts].filter((one) => one.src).length") == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
        "rgb(255, 255, 255)" if scheme == "light" else "rgb(19, 22, 27)"
    )
    assert page.get_by_role("table").count() == 7
    assert page.get_by_role("heading", level=1).inner_text() == "Five tasks <b>& three models</b>"
    page.close()


@pytest.mark.parametrize("models", [3, 5, 8, 12])
@pytest.mark.parametrize("width", [1440, 1024, 720, 390])
def test_no_table_is_cut_off(chromium: Browser, tmp_path: Path, width: int, models: int) -> None:
    """However many models and however narrow the window: no table scrolls sideways or runs out of the page, no text is cut."""
    names = (
        SONNET,
        GEMINI,
        *(f"provider/a-model-with-a-long-name-2026-{number:02}-18" for number in range(models - 2)),
    )
    candidates = tuple(candidate(name, role="incumbent" if name == SONNET else "challenger") for name in names)
    item = recommendation(candidates=candidates, fallbacks=names[2:], saving_per_month_usd=123456.78)
    path = write_report(
        calls=call_rows(models=names, cost_usd=0.00012345),
        recommendations=[item],
        path=tmp_path / "r.html",
        title="t",
        generated_at=NOW,
        latency_scale=24,
    )
    page = chromium.new_page(viewport={"width": width, "height": 900})
    page.goto(path.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    cut = page.evaluate(
        """() => [...document.querySelectorAll("table, table *:not(svg *)")].filter((e) => {
            const head = e.closest("thead");
            if (head && getComputedStyle(head).clipPath !== "none") return false;
            return (e.clientWidth > 0 && e.scrollWidth > e.clientWidth + 1) || e.getBoundingClientRect().right > innerWidth;
        }).map((e) => e.tagName + " " + e.className + " " + e.textContent.trim().slice(0, 40))"""
    )
    assert cut == []
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(chromium: Browser, tmp_path: Path, scheme: str) -> None:
    """Every text reaches a contrast of 4.5 to 1 against its background, in both colour schemes."""
    items = [recommendation(verdict, verdict) for verdict in ("KEEP", "TRIAL", "HOLD", "INSUFFICIENT", "PROMOTE")]  # type: ignore[arg-type]
    path = write_report(
        calls=call_rows(), recommendations=items, path=tmp_path / "r.html", title="t", generated_at=NOW, simulated=True
    )
    page = chromium.new_page(color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(path.as_uri())
    weak = page.evaluate(
        """() => {
        const rgb = (s) => s.match(/[\\d.]+/g).map(Number);
        const light = (c) => { const [r, g, b] = c.map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
                               return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
        const behind = (e) => {
            for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] !== 0) return c; } };
        const found = [];
        for (const e of document.querySelectorAll("body *:not(title):not(desc)")) {
            if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
            const style = getComputedStyle(e), ink = e.closest("svg") ? style.fill : style.color;
            const [a, b] = [light(rgb(ink).slice(0, 3)), light(behind(e).slice(0, 3))].sort((x, y) => y - x);
            if ((a + 0.05) / (b + 0.05) < 4.5) found.push(e.tagName + " " + e.textContent.trim().slice(0, 40));
        }
        return found;
    }"""
    )
    assert weak == []
    page.close()


def test_report_prints(chromium: Browser, tmp_path: Path) -> None:
    """Printing gives a PDF in which nothing is cut off at the right, whatever the colour scheme of the screen."""
    path = write_report(
        calls=call_rows(), recommendations=[recommendation()], path=tmp_path / "r.html", title="t", generated_at=NOW
    )
    page = chromium.new_page(viewport={"width": 703, "height": 1000}, color_scheme="dark")
    page.goto(path.as_uri())
    page.emulate_media(media="print", color_scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    page.close()
