"""The report in a real headless Chromium: nothing leaves the page, and what a reader clicks, types and hovers works."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from studies.report import write_report
from tests.studies.browser import chromium, console_errors, requests
from tests.studies.make_study import make_study

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of the report on the whole study."""
    return write_report(
        make_study(tmp_path_factory.mktemp("judged"), judged=True), tmp_path_factory.mktemp("pages") / "report.html"
    ).as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A desktop's browser in light mode, for the tests that only look and click."""
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


@pytest.fixture
def opened(browser: Any, page: str) -> Any:
    """The browser with the report freshly opened."""
    forget(browser)
    browser.get(page)
    return browser


def forget(driver: Any) -> None:
    """Drop what earlier pages logged."""
    console_errors(driver)
    requests(driver)


def count(driver: Any) -> int:
    """Trials that the filters let through, as the page says."""
    return int(driver.execute_script("return document.querySelector('.count').textContent").split(" of ")[0])


def column(driver: Any, heading: str) -> list[str]:
    """Cells of a column of the trial table, as shown."""
    return list(
        driver.execute_script(
            """const heads = [...document.querySelectorAll('.trials thead th')].map(h => h.textContent);
            const rows = document.querySelectorAll('.trials tbody tr'), place = heads.indexOf(arguments[0]);
            return [...rows].map(r => r.cells[place].textContent)""",
            heading,
        )
    )


def click_heading(driver: Any, heading: str) -> str:
    """Sort by a column; what the heading then says about its order."""
    return str(
        driver.execute_script(
            """const heads = [...document.querySelectorAll('.trials thead th')];
            const head = heads.find(h => h.textContent === arguments[0]);
            head.querySelector('button').click(); return head.getAttribute('aria-sort')""",
            heading,
        )
    )


def overflow(driver: Any) -> int:
    """Pixels by which the page is wider than its window."""
    return int(driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth"))


def luminance(driver: Any, selector: str, prop: str) -> float:
    """Mean of the red, green and blue (0 to 255) of a computed color."""
    script = "return getComputedStyle(document.querySelector(arguments[0])).getPropertyValue(arguments[1])"
    color = driver.execute_script(script, selector, prop)
    return sum(float(v) for v in color[color.index("(") + 1 : -1].split(",")[:3]) / 3


def test_the_page_opens_without_errors_and_asks_the_network_for_nothing(opened: Any) -> None:
    assert opened.find_element("css selector", "h1").text.startswith("Is masking 20")
    assert "loses at most" in opened.find_element("css selector", ".card").text
    assert len(opened.find_elements("css selector", "svg.chart[aria-label]")) >= 6
    assert console_errors(opened) == []
    assert requests(opened) == []


def test_the_log_would_show_a_request_if_the_page_made_one(opened: Any) -> None:
    forget(opened)
    opened.execute_script("new Image().src = 'http://127.0.0.1:9/nothing.png'")
    assert console_errors(opened) or requests(opened)  # the page's own policy refuses it


def test_a_heading_sorts_both_ways_with_empty_cells_last(opened: Any) -> None:
    assert click_heading(opened, "linear (val.)") == "descending"
    falling = [float(cell.rstrip(" %")) for cell in column(opened, "linear (val.)")]
    assert len(falling) == 25 and falling == sorted(falling, reverse=True)
    assert click_heading(opened, "linear (val.)") == "ascending"
    rising = [float(cell.rstrip(" %")) for cell in column(opened, "linear (val.)")]
    assert rising == sorted(rising) and rising[0] < falling[-1]
    assert click_heading(opened, "method") == "ascending"
    assert set(column(opened, "method")) == {"MAE"}


def test_filters_and_search_narrow_the_table(opened: Any) -> None:
    from selenium.webdriver.support.ui import Select

    everything = count(opened)
    labels = opened.find_elements("css selector", ".filters label")
    chooser = next(label for label in labels if label.text.startswith("status"))
    Select(chooser.find_element("tag name", "select")).select_by_visible_text("diverged")
    assert count(opened) == 1 < everything
    assert column(opened, "status") == ["diverged"]
    Select(chooser.find_element("tag name", "select")).select_by_visible_text("all")
    search = opened.find_element("css selector", ".filters input")
    search.send_keys("OutOfMemory")
    assert column(opened, "status") == ["failed"]
    search.send_keys(" nothing has this")
    assert count(opened) == 0 and column(opened, "status") == []


def test_a_row_opens_its_configuration_and_closes_again(opened: Any) -> None:
    opened.execute_script("document.querySelector('.trials .open').click()")
    detail = opened.find_element("css selector", ".trials .detail").text
    assert "optim.epochs" in detail and "masking.ratio" in detail
    assert opened.find_element("css selector", ".trials .open").get_attribute("aria-expanded") == "true"
    opened.execute_script("document.querySelector('.trials .open').click()")
    assert opened.find_elements("css selector", ".trials .detail") == []


def test_every_mark_has_a_tooltip_and_every_chart_a_table(opened: Any) -> None:
    titles = opened.execute_script(
        "return [...document.querySelectorAll('#figure .tip title')].map(t => t.textContent)"
    )
    assert any(t.startswith("mean ") and "95 % interval" in t and "5 seeds" in t for t in titles)
    assert any(t.startswith("seed 100:") for t in titles)
    charts, tables = (len(opened.find_elements("css selector", f"figure {s}")) for s in ("svg.chart", "details table"))
    assert charts == tables >= 6


def test_the_page_is_small_and_each_check_is_marked_in_words(page: str, opened: Any) -> None:
    from urllib.parse import urlparse

    assert Path(urlparse(page).path).stat().st_size < 1_500_000
    checks = opened.find_elements("css selector", ".card .checks li")
    assert checks and all("passed:" in c.get_attribute("textContent") for c in checks)
    assert "intersection-union test" in opened.find_element("css selector", "blockquote").text


def test_the_keyboard_reaches_headings_filters_and_rows(opened: Any) -> None:
    from selenium.webdriver import Keys

    opened.execute_script("document.activeElement.blur()")
    body, reached = opened.find_element("tag name", "body"), []
    body.send_keys(Keys.TAB)
    assert opened.switch_to.active_element.get_attribute("class") == "skip"
    for _ in range(60):
        active = opened.switch_to.active_element
        reached.append((active.tag_name, active.get_attribute("class")))
        if "open" in (active.get_attribute("class") or "").split():
            break
        active.send_keys(Keys.TAB)
    assert {"input", "select", "a", "button", "summary"} <= {tag for tag, _ in reached}
    opened.switch_to.active_element.send_keys(Keys.ENTER)
    assert opened.find_elements("css selector", ".trials .detail")
    assert opened.switch_to.active_element.get_attribute("aria-expanded") == "true"  # the focus stays on the row


def test_downloads_are_inside_the_page_and_whole(opened: Any) -> None:
    import base64

    import pyarrow as pa

    link = next(
        a for a in opened.find_elements("css selector", ".downloads a") if a.get_attribute("download") == "trials.arrow"
    )
    content = base64.b64decode(link.get_attribute("href").partition(",")[2])
    assert pa.ipc.open_file(content).read_all().num_rows == count(opened)


def test_a_phone_in_dark_mode_has_no_sideways_scroll_and_light_text(page: str, tmp_path: Path) -> None:
    with chromium(tmp_path, width=390, height=844, dark=True) as phone:
        phone.get(page)
        assert overflow(phone) <= 0
        phone.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true })")
        phone.execute_script("document.querySelector('.trials .open').click()")
        assert overflow(phone) <= 0
        cut = phone.execute_script(
            """return [...document.querySelectorAll('.chart')].flatMap(p => [...p.querySelectorAll('text')]
            .filter(t => { const a = t.getBoundingClientRect(), b = p.getBoundingClientRect();
              return a.width && (a.left < b.left - 2 || a.right > b.right + 2) }).map(t => t.textContent))"""
        )
        assert cut == []
        assert luminance(phone, "body", "background-color") < 60 < 180 < luminance(phone, "body", "color")
        assert luminance(phone, ".chart text", "fill") > 150  # the charts follow
        assert console_errors(phone) == [] and requests(phone) == []


def test_several_studies_share_one_page(browser: Any, storage: Path, tmp_path: Path) -> None:
    forget(browser)
    out = write_report([storage / "digits-quick", storage / "cifar10-quick"], tmp_path / "both.html")
    browser.get(out.as_uri())
    labels = [c.get_attribute("aria-label") for c in browser.find_elements("css selector", "#figure .chart")]
    assert {label.split(",")[0] for label in labels} >= {"PMAE on cifar10", "PMAE on digits"}
    assert browser.find_elements("css selector", "#differences .chart[aria-label^='Regret']")
    assert "study" in [h.text for h in browser.find_elements("css selector", ".trials thead th")]
    assert console_errors(browser) == [] and requests(browser) == []


def test_a_partial_study_has_a_page_that_lists_what_is_missing(browser: Any, tmp_path: Path) -> None:
    forget(browser)
    folder = make_study(tmp_path, "young", explored=2, seeds=0, samples=False, losses=False)
    browser.get(write_report(folder).as_uri())
    assert "No answer yet" in browser.find_element("id", "answer").text
    assert browser.find_elements("css selector", ".notes li")
    assert console_errors(browser) == [] and requests(browser) == []
