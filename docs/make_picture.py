"""Makes images/report.png, the picture in the README, from the report of a demo: uv run python docs/make_picture.py [REPORT.html]

Needs Chromium. The picture is one task of the report as it is, without the reasons after the third and what follows the charts.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from playwright.sync_api import sync_playwright

PICTURE: Final = Path(__file__).parent / "images" / "report.png"
TASK: Final = "summary"
LEFT_OUT: Final = """
    #picture li:nth-child(n + 4), #picture figure.chart:first-of-type, #picture > table, #picture .numbers,
    #picture .charts .caption { display: none }
    #picture { padding: 16px 24px; margin: 0; background: var(--paper, #fff) }
"""


def make(report: Path, picture: Path = PICTURE) -> None:
    """Photographs one task of a report."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium",
            args=["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        page = browser.new_page(viewport={"width": 1120, "height": 1400}, color_scheme="light")
        page.goto(report.absolute().as_uri())
        page.evaluate(
            "([task, css]) => { const head = [...document.querySelectorAll('article.task h3')]"
            ".find((one) => one.textContent === task); head.closest('article').id = 'picture';"
            "const sheet = new CSSStyleSheet(); sheet.replaceSync(css); document.adoptedStyleSheets = [sheet]; }",
            [TASK, LEFT_OUT],
        )
        article = page.locator("#picture")
        article.scroll_into_view_if_needed()
        page.locator("#picture canvas").last.wait_for()
        article.screenshot(path=picture)
        browser.close()


def main() -> None:
    """Makes the picture from a report that is there, else from a demo of its own."""
    if len(sys.argv) > 1:
        make(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.html"
        command = ["tierwise", "demo", "--seed", "1", "--store", str(Path(folder) / "demo.db"), "--report", str(report)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
        make(report)


if __name__ == "__main__":
    main()
