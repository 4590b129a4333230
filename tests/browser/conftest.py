"""A real Chromium, and pages in it that must not complain."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page

from tests.browser.chromium import chromium
from tests.waiting import HANGS_S

Open = Callable[..., Page]
"""Opens a window at a daemon's URL. Arguments by name are those of Playwright's `Browser.new_context`."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium for all tests of a file. Its driver keeps the event loop of the thread, so it ends with the file."""
    with chromium() as started:
        yield started


@pytest.fixture
def window(browser: Browser) -> Iterator[Open]:
    """Opens windows; at the end, no script and no policy of the pages may have complained."""
    complaints: list[str] = []
    with ExitStack() as opened:

        def open_window(url: str, **options: Any) -> Page:
            context = opened.enter_context(browser.new_context(base_url=url, **options))
            context.set_default_timeout(1000 * HANGS_S)
            page = context.new_page()
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda message: complaints.extend(_complaint(message)))
            return page

        yield open_window
    assert not complaints


def _complaint(message: ConsoleMessage) -> list[str]:
    # That an answer was an error, or that a stream broke, is what some tests are about.
    expected = message.text.startswith("Failed to load resource") or message.text == "[object Event]"
    return [message.text] if message.type in ("error", "warning") and not expected else []
