"""Measures the dashboard: `python -m bench.dashboard`.

A daemon has 100,000 windows and 200 versions, and a real Chromium opens its pages: first right after the daemon's
start, then again. Then the gateway's throughput is measured in turns without a page and with twenty open pages, on a
stub of an engine that answers at once. The daemon has a core of its own for that, as browsers run on other machines:
what Chromium itself computes does not count, and what its pages ask of the daemon does.
"""

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, BrowserContext, Page

from bench.figures import Report
from bench.gateway import BUSY_CONNECTIONS, CHAT, move
from bench.http_load import run_load
from bench.paired import pseudomedian
from tests.browser.chromium import chromium
from tests.browser.history_daemon import written_history
from tests.browser.pages import PAGES, Shown, drawn
from tests.daemon import Daemon, running
from tests.tiny_policy import build_tiny_policy

WINDOWS, VERSIONS = 100_000, 200
MEASURED = [shown for shown in PAGES if shown.name in ("now", "entropy")]
WARM_LOADS = 5
OPEN_PAGES = 20
ROUNDS = 12
SECONDS = 5.0
"""Of load in a turn; in all rounds together, the pages are open for a minute of it."""
BODY = json.dumps({"model": "policy", "messages": [{"role": "user", "content": "What is 2 + 2?"}]}).encode()


def load_ms(page: Page, shown: Shown) -> float:
    """Time until a page is there and its curves are drawn."""
    started = time.perf_counter()
    page.goto(shown.path)
    drawn(page, shown.curves)
    return 1e3 * (time.perf_counter() - started)


def measure_loads(browser: Browser, daemon: Daemon, shown: Shown, report: Report) -> None:
    with browser.new_context(base_url=daemon.url) as context:
        page = context.new_page()
        page.goto("about:blank")  # the tab's own process is there then
        first = load_ms(page, shown)
        warm = statistics.median(load_ms(page, shown) for _ in range(WARM_LOADS))
    report.result(f"{shown.name}_page_ms", first, "ms, first load after the daemon's start, in a new browser profile")
    report.result(f"{shown.name}_page_warm_ms", warm, "ms, later loads")


@contextmanager
def core_of_its_own(folder: Path, model: Path, tables: dict[str, dict[str, Any]]) -> Iterator[Daemon]:
    """A daemon on one core; this process and what it starts meanwhile have the others."""
    core, *others = cores = sorted(os.sched_getaffinity(0))
    if not others:
        raise RuntimeError("the daemon cannot have a core of its own on a machine with one core")
    for child in psutil.Process().children(recursive=True):
        move(child, others)
    try:
        os.sched_setaffinity(0, {core})
        with running(folder, model, **tables) as daemon:
            os.sched_setaffinity(0, others)
            yield daemon
    finally:
        os.sched_setaffinity(0, cores)


def measure_throughput(browser: Browser, daemon: Daemon, report: Report) -> None:
    port = int(daemon.url.rpartition(":")[2])
    # Each page has a profile of its own, as those of twenty people: one browser keeps six connections to a server.
    contexts: list[BrowserContext] = [browser.new_context(base_url=daemon.url) for _ in range(OPEN_PAGES)]
    pages = [context.new_page() for context in contexts]
    ratios: list[float] = []
    with ThreadPoolExecutor(1) as loader:  # Chromium's driver keeps the event loop of this thread

        def speed() -> float:
            load = loader.submit(run_load, port, CHAT, BODY, connections=BUSY_CONNECTIONS, seconds=SECONDS).result()
            return load.requests_per_second

        speed()  # warms up
        for turn in range(1, ROUNDS + 1):
            speeds: dict[bool, float] = {}
            for with_pages in (False, True) if turn % 2 else (True, False):
                for number, page in enumerate(pages):
                    if with_pages:
                        load_ms(page, MEASURED[number % len(MEASURED)])
                    else:
                        page.goto("about:blank")
                speeds[with_pages] = speed()
            ratios.append(speeds[True] / speeds[False])
            print(
                f"turn {turn}: {speeds[False]:.0f} requests/s without a page, {speeds[True]:.0f} with {OPEN_PAGES}",
                flush=True,
            )
    for context in contexts:
        context.close()
    ratio, margin = pseudomedian(ratios)
    report.result("gateway_with_pages", ratio, f"of its throughput without, with {OPEN_PAGES} open pages")
    report.result("gateway_with_pages_margin", margin, "(95%)")


def main() -> None:
    report = Report("dashboard")
    with tempfile.TemporaryDirectory(prefix="reheatd-bench-") as name:
        folder = Path(name)
        model = build_tiny_policy(folder / "tiny-policy")
        with written_history(folder, model, windows=WINDOWS, versions=VERSIONS) as tables:
            for shown in MEASURED:
                with running(folder, model, **tables) as daemon, chromium() as browser:
                    measure_loads(browser, daemon, shown, report)
            with core_of_its_own(folder, model, tables) as daemon, chromium() as browser:
                measure_throughput(browser, daemon, report)
    report.write(windows=WINDOWS, versions=VERSIONS, pages=OPEN_PAGES, rounds=ROUNDS, seconds=SECONDS)


if __name__ == "__main__":
    main()
