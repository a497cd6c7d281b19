"""The live pages in a real Chromium: charts, filters, drill-down, approval and the way back, and accessibility."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from support.live_pages import TOKEN, Pages, live_pages
from support.report_data import GEMINI, HAIKU, SONNET, call_row, recommendation, rounds, store_with
from tierwise.core.call import Call, Try
from tierwise.core.route import Route, RouteTable
from tierwise.routing import read_table, write_table
from tierwise.surfaces.report import write_report

pytestmark = pytest.mark.browser

AXE = Path(__file__).parents[1] / "support" / "axe" / "axe.min.js"
HOSTILE = "<img src=x onerror=\"document.title='owned'\">🦊 & 'x' " + "y" * 300


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


def traffic() -> list[Call]:
    """Two days of a task with JSON on two models, and one of a hostile name, up to two hours ago."""
    now = int(time.time()) // 3600 * 3600 - 2 * 3600
    calls = []
    for hour in range(48):
        for number, model in enumerate((SONNET, GEMINI) * 3):
            good = (hour + number) % 5 > 0
            row = call_row(
                task="support" if number < 4 else HOSTILE, candidate=model, arm="explore", duration_s=0.3 + 0.1 * number,
                started_at_ns=(now - 3600 * hour + number) * 10**9, expects_json=True,
                json_form="plain" if good else "invalid", outcome="success" if good else "json_invalid",
                cost_usd=0.01 if model == SONNET else 0.002, span_id=f"{hour * 10 + number + 1:016x}",
            )  # fmt: skip
            if number == 3:
                row = replace(row, retries=1, failed_tries=(Try(number=1, status=429, backoff_s=0.5),))
            calls.append(row.to_call())
    return calls


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    """A server over bench rounds that gemini wins and two days of traffic; sonnet is the primary everywhere."""
    folder = tmp_path_factory.mktemp("live")
    store = store_with(folder / "t.db", [*rounds(40), *traffic()])
    routes = {name: Route(task=name, primary=SONNET) for name in ("summary", "strict-json")}
    write_table(folder / "routes.json", RouteTable(version=1, updated_at=1, routes=routes), expected_version=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIERWISE_ROUTES", str(folder / "routes.json"))
        with live_pages(store) as running:
            yield running


@pytest.fixture
def page(chromium: Browser, pages: Pages) -> Iterator[Page]:
    """A window; at its end nothing was written to the console and nothing asked for from anywhere else."""
    window = chromium.new_page(viewport={"width": 1440, "height": 900})
    said: list[str] = []
    asked: list[str] = []
    window.on("console", lambda message: said.append(message.text))
    window.on("pageerror", lambda error: said.append(str(error)))
    window.on("request", lambda request: asked.append(request.url))
    yield window
    window.close()
    assert said == []
    assert [url for url in asked if not url.startswith((pages.url, "file:"))] == []


def draw_all(page: Page) -> None:
    """Have every chart drawn, as scrolling through the page does."""
    page.evaluate(
        "async () => { for (const one of document.querySelectorAll('.plot')) { one.scrollIntoView(); "
        "await new Promise((done) => setTimeout(done, 60)); } }"
    )


def test_every_chart_is_drawn(page: Page, pages: Pages) -> None:
    """Success, JSON, cost and latency of a task are drawn, with ink, and each says in words what it shows."""
    page.goto(f"{pages.url}/task?name=support")
    draw_all(page)
    kinds = page.eval_on_selector_all(".plot", "all => all.map((one) => one.dataset.kind)")
    assert kinds == ["success", "json", "cost", "latency"]
    inked = page.evaluate(
        "() => [...document.querySelectorAll('.plot canvas')].map((one) => one.getContext('2d')"
        ".getImageData(0, 0, one.width, one.height).data.some((value) => value > 0))"
    )
    assert inked == [True] * 4
    for label in page.eval_on_selector_all(".plot", "all => all.map((one) => one.getAttribute('aria-label'))"):
        assert SONNET in label
        assert GEMINI in label
    assert page.locator("svg.scatter").count() == 1


def test_pointing_at_a_chart_reads_it_out(page: Page, pages: Pages) -> None:
    """Under the pointer, place, estimates and intervals stand below the chart."""
    page.goto(f"{pages.url}/task?name=support")
    plot = page.locator(".plot[data-kind=success]")
    plot.scroll_into_view_if_needed()
    plot.locator(".u-over").hover(position={"x": 100, "y": 60})
    expect(page.locator(".chart", has=plot).locator(".readout")).to_contain_text(re.compile(rf"{SONNET} [\d.]+ % \("))


def test_numbers_behind_the_charts_open_by_keyboard(page: Page, pages: Pages) -> None:
    """The numbers are tables made when asked for, reached and opened with the keyboard alone."""
    page.goto(f"{pages.url}/task?name=support")
    page.locator("details.numbers summary").focus()
    page.keyboard.press("Enter")
    expect(page.locator("details.numbers table")).to_have_count(4)
    table = page.locator("details.numbers table").first
    assert table.locator("thead th").all_inner_texts() == ["From (UTC)", SONNET, GEMINI]
    assert "%" in table.locator("tbody td").first.inner_text()


def test_report_in_a_file_draws_its_charts(page: Page, tmp_path: Path) -> None:
    """The same charts stand in the file, drawn under its own policy, with 300-character names and none of their markup."""
    rows = [
        call_row(task=HOSTILE, candidate=HOSTILE, started_at_ns=call_row().started_at_ns + n * 36 * 10**11)
        for n in range(30)
    ]
    path = write_report(
        calls=rows,
        recommendations=[recommendation(task=HOSTILE)],
        path=tmp_path / "r.html",
        title=HOSTILE,
        generated_at=1,
    )
    page.goto(path.as_uri())
    draw_all(page)
    assert page.locator(".plot canvas").count() == 3
    assert page.evaluate("document.images.length") == 0
    assert page.title().startswith("<img src=x")


def test_charts_stand_on_paper(page: Page, pages: Pages) -> None:
    """Before printing, every chart is drawn in dark ink on white, wherever the window stands."""
    page.emulate_media(color_scheme="dark")
    page.goto(f"{pages.url}/")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator(".plot canvas").count() == page.locator(".plot").count() > 4
    assert page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--page')").strip() == "#fff"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--page')").strip() == "#13161b"


def test_overview_filter(page: Page, tmp_path: Path) -> None:
    """With many tasks the overview is narrowed by words and verdict, and says how many are left."""
    items = [recommendation(f"task-{number:03}", "KEEP" if number % 4 else "PROMOTE") for number in range(1000)]
    path = write_report(calls=[], recommendations=items, path=tmp_path / "r.html", title="t", generated_at=1)
    page.goto(path.as_uri())
    count = page.locator("#filter-count")
    expect(count).to_have_text("1,000 of 1,000")
    page.get_by_label("Task or model").fill("task-01")
    expect(count).to_have_text("10 of 1,000")
    page.get_by_label("Verdict").select_option("PROMOTE")
    expect(count).to_have_text("2 of 1,000")
    assert page.locator(".routes tbody tr:visible th").all_inner_texts() == ["task-012", "task-016"]


def test_drill_down_from_report_to_call(page: Page, pages: Pages) -> None:
    """From the report to a task, to its calls, filtered, to one call with its tries and its span id."""
    page.goto(f"{pages.url}/")
    page.locator(".routes").get_by_role("link", name="support", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("support")
    page.get_by_role("link", name="All calls of this task").click()
    expect(page.get_by_label("Task")).to_have_value("support")
    page.get_by_label("Model").fill(GEMINI)
    page.get_by_label("Outcome").select_option("json_invalid")
    page.get_by_label("Arm").select_option("explore")
    page.get_by_role("button", name="Filter").click()
    table = page.locator("table.calls tbody")
    assert set(table.locator("tr td:nth-of-type(2)").all_inner_texts()) == {GEMINI}
    assert set(table.locator("tr td:nth-of-type(4)").all_inner_texts()) == {"json invalid"}
    page.get_by_label("Outcome").select_option("")
    page.get_by_role("button", name="Filter").click()
    table.locator("tr", has=page.locator("td:nth-of-type(8)", has_text="2")).first.get_by_role("link").click()
    expect(page.locator("main")).to_contain_text("HTTP 429")
    expect(page.locator("main")).to_contain_text("Span id")


def test_approve_and_roll_back(page: Page, pages: Pages) -> None:
    """The token from the printed address is filled in by itself; approving changes the route, rolling back undoes it."""
    page.goto(f"{pages.url}/#token={TOKEN}")
    assert page.url == f"{pages.url}/"
    page.locator(".routes").get_by_role("link", name="strict-json").click()
    page.get_by_role("button", name=f"Change to {GEMINI}").click()
    expect(page.locator(".done")).to_have_text("The recommended route is in force.")
    assert read_table(pages.settings.routes_path).routes["strict-json"].primary == GEMINI
    expect(page.locator(".timeline")).to_contain_text(f"{SONNET} → to {GEMINI}")
    page.get_by_label("Why").fill("<b>not yet</b>")
    page.get_by_role("button", name="Roll back").click()
    expect(page.locator(".done")).to_have_text("The task is back on the route before.")
    expect(page.locator(".timeline")).to_contain_text("<b>not yet</b>")
    assert read_table(pages.settings.routes_path).routes["strict-json"].primary == SONNET


def test_wrong_token_is_refused_in_words(chromium: Browser, pages: Pages) -> None:
    """A wrong token leads to a page that says so, and nothing changes."""
    window = chromium.new_page()
    window.goto(f"{pages.url}/task?name=summary")
    window.get_by_label("Token").fill("wrong")
    window.get_by_role("button", name=re.compile("Change to|Start a trial")).click()
    expect(window.get_by_role("heading", level=1)).to_have_text("Refused")
    assert read_table(pages.settings.routes_path).routes["summary"].primary == SONNET
    window.close()


def test_other_sites_cannot_post(chromium: Browser, pages: Pages, tmp_path: Path) -> None:
    """A page from elsewhere that posts the right form with the right token is refused."""
    version = read_table(pages.settings.routes_path).version
    fields = {"task": "summary", "what": f"PROMOTE:{GEMINI}", "version": str(version), "token": TOKEN}
    inputs = "".join(f'<input name="{name}" value="{value}">' for name, value in fields.items())
    other = tmp_path / "other.html"
    other.write_text(
        f'<form method="post" action="{pages.url}/approve">{inputs}<button>go</button></form>', encoding="utf-8"
    )
    window = chromium.new_page()
    window.goto(other.as_uri())
    with window.expect_response(f"{pages.url}/approve") as answer:
        window.get_by_role("button").click()
    assert answer.value.status == 403
    assert read_table(pages.settings.routes_path).version == version
    window.close()


def test_news_is_announced(chromium: Browser, tmp_path: Path) -> None:
    """When a call comes in, the page says so within seconds, without losing what is on it."""
    path = store_with(tmp_path / "s.db", [call_row().to_call()])
    with live_pages(path) as own:
        window = chromium.new_page()
        window.goto(f"{own.url}/")
        store_with(path, [call_row(started_at_ns=call_row().started_at_ns + 1).to_call()])
        expect(window.get_by_role("status")).to_contain_text("There is something new.", timeout=20_000)
        window.close()


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
@pytest.mark.parametrize("target", ["/", "/task?name=support", "/task?name=strict-json", "/calls", "/call", "/nope"])
def test_no_serious_accessibility_violation(
    chromium: Browser, pages: Pages, target: str, width: int, scheme: str
) -> None:
    """axe-core finds nothing on any page, wide and narrow, light and dark, and nothing is wider than the window."""
    context = chromium.new_context(
        bypass_csp=True,  # for axe alone: it is put into the page
        viewport={"width": width, "height": 900},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    window = context.new_page()
    window.goto(pages.url + ("/calls" if target == "/call" else target))
    if target == "/call":
        window.locator("table.calls a").first.click()
    draw_all(window)
    window.evaluate(AXE.read_text(encoding="utf-8"))
    found = window.evaluate("axe.run(document, {resultTypes: ['violations']})")
    assert [(one["id"], one["impact"], one["nodes"][0]["html"]) for one in found["violations"]] == []
    assert window.evaluate("document.documentElement.scrollWidth <= innerWidth")
    context.close()


def test_calls_stand_on_a_telephone(chromium: Browser, pages: Pages) -> None:
    """On a narrow screen all of a call is in sight: no column is cut off and nothing has to be moved sideways."""
    window = chromium.new_page(viewport={"width": 390, "height": 900})
    window.goto(f"{pages.url}/calls")
    region = window.get_by_role("region", name="Calls")
    assert region.evaluate("one => one.scrollWidth <= one.clientWidth")
    boxes = region.locator("tbody tr:first-child > *").all()
    assert len(boxes) == 9
    for box in boxes:
        place = box.bounding_box()
        assert place is not None
        assert place["x"] >= 0
        assert place["x"] + place["width"] <= 390
    assert region.get_by_role("row").count() > 50
    window.close()


def test_words_of_the_calls_are_not_broken(page: Page, pages: Pages) -> None:
    """On a wide screen model, arm and outcome stand on one line each, however long the name of a task is."""
    page.goto(f"{pages.url}/calls?outcome=json_invalid")
    assert page.locator("table.calls td.name", has_text="img src=x").count() > 0
    row = page.locator("table.calls tbody tr", has_text="support").first
    assert row.evaluate("one => [...one.cells].every((cell) => cell.clientHeight < 48)")


def test_store_with_a_thousand_tasks_renders(chromium: Browser, tmp_path: Path) -> None:
    """A thousand tasks: the overview lists and filters all, the most urgent are shown in full, each has its own page."""
    start = (int(time.time()) // 3600 - 5) * 3600
    calls = [
        call_row(task=f"task-{number:04}", candidate=model, started_at_ns=(start + 3600 * hour) * 10**9).to_call()
        for number in range(1000)
        for model in (SONNET, GEMINI)
        for hour in range(2)
    ]
    with live_pages(store_with(tmp_path / "many.db", calls)) as own:
        window, said = chromium.new_page(), []
        window.on("console", lambda message: said.append(message.text))
        window.on("pageerror", lambda error: said.append(str(error)))
        window.goto(f"{own.url}/", timeout=60_000)
        expect(window.locator("#filter-count")).to_have_text("1,000 of 1,000")
        assert window.locator("article.task").count() == 60
        window.get_by_label("Task or model").fill("task-0987")
        window.locator(".routes").get_by_role("link", name="task-0987").click()
        expect(window.get_by_role("heading", level=1)).to_have_text("task-0987")
        assert window.locator("table.calls tbody tr").count() == 4
        assert said == []
        window.close()


def test_empty_store_renders(chromium: Browser, tmp_path: Path) -> None:
    """A store that holds nothing, or none at all, is a page that says how to begin."""
    with live_pages(store_with(tmp_path / "empty.db", [])) as own:
        window = chromium.new_page()
        window.goto(f"{own.url}/")
        expect(window.locator("main, header").first).to_contain_text("Nothing is recorded yet")
        window.goto(f"{own.url}/calls?model={HAIKU}")
        expect(window.locator("main")).to_contain_text("No call.")
        window.close()
