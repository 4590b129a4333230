"""The pages of a daemon with weeks of windows: they are drawn, zoomed, filtered and read without scripts."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Open
from tests.browser.history_daemon import history_daemon
from tests.browser.pages import drawn
from tests.daemon import Daemon, make_key
from tests.waiting import HANGS_S

WINDOWS, VERSIONS = 5000, 24
CURVE = ".chart[data-follow]"

expect.set_options(timeout=1000 * HANGS_S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("history")


@pytest.fixture(scope="module")
def key(folder: Path) -> str:
    """A key for administration."""
    return make_key(folder / "data", "ops", "--role", "admin")


@pytest.fixture(scope="module")
def daemon(tiny_policy: Path, folder: Path, key: str) -> Iterator[Daemon]:
    """A daemon that asks for keys on a history that does not change."""
    server = {"require_keys": True}
    with history_daemon(folder, tiny_policy, windows=WINDOWS, versions=VERSIONS, server=server) as started:
        yield started


@pytest.fixture
def inside(daemon: Daemon, key: str, window: Open) -> Open:
    """Opens windows that are logged in."""

    def open_window(**options: Any) -> Page:
        page = window(daemon.url, **options)
        page.goto("/ui/login")
        page.get_by_label("API key").fill(key)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("button", name="Log out")).to_be_visible()
        return page

    return open_window


def points(page: Page) -> int:
    """Number of windows that the curve over time shows."""
    return page.evaluate(f"document.querySelector('{CURVE}').plot.data[0].length")


def zoom(page: Page, start: float, end: float) -> None:
    """Drags over a part of the curve, given as shares of its width."""
    box = page.locator(f"{CURVE} .u-over").bounding_box()
    assert box is not None
    with page.expect_response(lambda answer: "entropy.json" in answer.url and "start=" in answer.url):
        page.mouse.move(box["x"] + start * box["width"], box["y"] + 80)
        page.mouse.down()
        page.mouse.move(box["x"] + end * box["width"], box["y"] + 80, steps=5)
        page.mouse.up()


def test_zooming_in_asks_for_more_detail_and_the_tables_follow(inside: Open) -> None:
    page = inside(viewport={"width": 1400, "height": 900})
    page.goto("/ui/entropy")
    drawn(page, 2)
    whole = page.evaluate(f"document.querySelector('{CURVE}').plot.data[0]")
    zoom(page, 0.45, 0.5)
    expect(page.locator("#windows").last).to_contain_text("Show all times")
    part = page.evaluate(f"document.querySelector('{CURVE}').plot.data[0]")
    inner = [x for x in whole if part[0] <= x <= part[-1]]
    assert 0.03 < (part[-1] - part[0]) / (whole[-1] - whole[0]) < 0.07
    assert len(part) > 2 * len(inner), "there are more windows than the whole curve showed there"
    page.locator(f"{CURVE} .u-over").dblclick()
    page.wait_for_function(
        "(length) => document.querySelector('.chart[data-follow]').plot.data[0].length === length", arg=len(whole)
    )
    expect(page.get_by_text("Show all times")).to_have_count(0)


def test_sources_are_switched_on_and_off(inside: Open) -> None:
    page = inside(viewport={"width": 1400, "height": 900})
    page.goto("/ui/entropy")
    drawn(page, 2)
    legend = page.locator(f"{CURVE} .u-legend")
    expect(legend).to_contain_text("probes")
    expect(legend).not_to_contain_text("clients")
    page.get_by_label("Clients", exact=True).check()
    expect(page.locator(f"{CURVE} .u-legend")).to_contain_text("clients, tap")
    assert "source=live" in page.url and page.get_by_label("Clients", exact=True).evaluate(
        "e => e === document.activeElement"
    )
    page.get_by_label("Probes", exact=True).uncheck()
    expect(page.locator(f"{CURVE} .u-legend")).not_to_contain_text("probes")
    expect(page.get_by_role("region", name="Windows of other sources")).to_contain_text("Clients")
    page.reload()
    drawn(page, 2)
    expect(page.locator(f"{CURVE} .u-legend")).to_contain_text("clients, tap")
    expect(page.get_by_label("Probes", exact=True)).not_to_be_checked()


def test_a_moment_that_is_picked_from_the_list_is_shown(inside: Open) -> None:
    page = inside()
    page.goto("/ui/entropy")
    moment = page.get_by_role("region", name="What happened").get_by_role("link").first
    when = moment.inner_text()
    moment.press("Enter")
    expect(page.get_by_text("Show all times")).to_be_visible()
    expect(page.get_by_role("region", name="What happened")).to_contain_text(when)
    drawn(page, 2)
    assert points(page) < 60


def test_everything_is_read_without_javascript(inside: Open) -> None:
    page = inside(java_script_enabled=False)
    page.goto("/")
    expect(page.get_by_role("region", name="Verdict")).to_contain_text(f"policy-v{VERSIONS}")
    page.get_by_role("link", name="Entropy", exact=True).click()
    expect(page.get_by_role("region", name="Windows of the probes").get_by_role("row")).to_have_count(26)
    page.get_by_label("Clients", exact=True).check()
    page.get_by_label("Probes", exact=True).uncheck()
    page.get_by_label("Period").select_option("Last 7 days")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("region", name="Windows of other sources")).to_contain_text("exactly, in the engine (tap)")
    expect(page.get_by_role("region", name="Windows of the probes")).to_have_count(0)
    expect(page.get_by_label("Period")).to_have_value("604800")
    page.get_by_text("As a table").click()
    expect(page.get_by_role("region", name="Entropy by position")).to_contain_text("32–63")
    page.get_by_role("link", name="Older windows").click()
    expect(page.get_by_text("Show all times")).to_be_visible()


def test_all_windows_are_downloaded(inside: Open) -> None:
    page = inside()
    page.goto("/ui/entropy")
    with page.expect_download() as download:
        page.get_by_role("link", name="All windows as CSV").click()
    rows = [*csv.DictReader(Path(download.value.path()).read_text().splitlines())]
    assert download.value.suggested_filename == "entropy.csv"
    assert sum(row["source"] == "probe" and row["measured_by"] == "control_variate" for row in rows) >= WINDOWS


def test_only_a_key_for_administration_opens_the_pages(daemon: Daemon, key: str, window: Open) -> None:
    page = window(daemon.url)
    page.goto("/ui/entropy?source=live")
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")
    page.get_by_label("API key").fill("rh-nobody-knows-me")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("This key is not known or was revoked.")
    page.get_by_label("API key").fill(make_key(daemon.data_dir, "app"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("is for inference")
    page.get_by_label("API key").fill(key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Entropy")
    drawn(page, 2)
    (cookie,) = page.context.cookies()
    assert cookie.get("httpOnly") and cookie.get("sameSite") == "Strict"
    page.get_by_role("button", name="Log out").click()
    expect(page.locator(".notice")).to_have_text("You are logged out.")
    page.goto("/")
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")


def test_the_keyboard_reaches_everything(inside: Open) -> None:
    page = inside()
    page.goto("/ui/entropy")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_label("Probes", exact=True)).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    expect(page.get_by_label("Rollouts of jobs")).to_be_checked()
    expect(page.locator(f"{CURVE} .u-legend")).to_contain_text("rollouts, monte carlo")


def test_more_tabs_than_a_browser_has_connections(inside: Open) -> None:
    """A browser keeps six connections to a server: tabs that nobody sees must give theirs back."""
    first = inside()
    tabs = [first, *(first.context.new_page() for _ in range(7))]
    for tab in tabs:
        tab.goto("/")
        expect(tab.locator(".verdict")).to_be_visible()
        drawn(tab, 1)
        hide(tab, True)
    with first.expect_event("response", lambda answer: "/ui/live/now" in answer.url):
        hide(first, False)


def hide(page: Page, hidden: bool) -> None:
    """Makes a page believe that its tab is not seen: without a window, all are."""
    page.evaluate(
        "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        hidden,
    )
