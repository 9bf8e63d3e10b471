"""The page in a browser: no errors, accessible, whole on paper, in both themes.

    SKTRANSFER_TEST_CHROMIUM=/usr/bin/chromium \\
    SKTRANSFER_TEST_AXE=node_modules/axe-core/axe.min.js pytest -m slow tests/report/test_browser.py

Chromium is a package of the system; axe-core is a package of npm.
"""

from __future__ import annotations

import re

import pytest

from tests.report import browser

pytestmark = pytest.mark.slow

# A4 less the margins of the style sheet, in CSS pixels.
PAPER_WIDTH, PAPER_HEIGHT = 680, 1001


@pytest.fixture
def page(report, tmp_path):
    path = tmp_path / "report.html"
    report.to_html(path)
    return path


@pytest.mark.parametrize("dark", [False, True])
def test_no_errors_and_no_violations(page, dark):
    _, console = browser.run(page, "--dump-dom", dark=dark)
    assert console == []
    script = browser.axe() + "; return (await axe.run()).violations.map(each => "
    script += "[each.id, each.impact, each.nodes.map(node => node.html)]);"
    found = browser.asked(page, script, dark=dark)
    assert [each for each in found if each[1] in ("serious", "critical")] == []


@pytest.mark.parametrize(
    ("dark", "paper"), [(False, "rgb(255, 255, 255)"), (True, "rgb(26, 29, 35)")]
)
def test_the_theme_follows_the_reader(page, dark, paper):
    script = "const shown = [...document.images].map(each => each.currentSrc.slice(-200)); "
    script += "return [getComputedStyle(document.body).backgroundColor, shown];"
    color, shown = browser.asked(page, script, dark=dark)
    assert color == paper
    attribute = "srcset" if dark else "src"
    given = re.findall(rf'{attribute}="(data:image/[^"]+)"', page.read_text())
    assert shown == [each[-200:] for each in given]


def test_images_are_shown_and_nothing_is_wider_than_the_window(page):
    script = "await Promise.all([...document.images].map(each => each.decode())); "
    script += "return [[...document.images].map(each => each.naturalWidth), "
    script += "document.documentElement.scrollWidth, innerWidth];"
    widths, wide, window = browser.asked(page, script, "--window-size=500,900")
    assert len(widths) == 6
    assert min(widths) > 100
    assert wide <= window


def test_no_figure_is_cut_on_paper(page):
    # The rules for paper on a window as wide as the paper.
    text = page.read_text()
    assert "@media print" in text
    page.write_text(text.replace("@media print", "@media all"))
    script = "return [...document.querySelectorAll('figure, table')].map(each => "
    script += "[each.getBoundingClientRect().height, getComputedStyle(each).breakInside, "
    script += "each.getBoundingClientRect().right]);"
    found = browser.asked(page, script, f"--window-size={PAPER_WIDTH},2000")
    assert len(found) > 15
    for height, rule, right in found:
        assert rule == "avoid"
        assert height < PAPER_HEIGHT  # a figure that fits is not cut where the rule holds
        assert right <= PAPER_WIDTH


def test_page_prints_in_light_colors(page, tmp_path):
    pdf = tmp_path / "report.pdf"
    browser.run(page, f"--print-to-pdf={pdf}", "--no-pdf-header-footer", dark=True)
    assert pdf.read_bytes().startswith(b"%PDF")
    # On paper the page is light, whatever the screen is.
    assert 5 <= len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes())) <= 30
