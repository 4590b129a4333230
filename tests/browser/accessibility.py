"""Runs axe-core in a page."""

from pathlib import Path
from typing import Any

from playwright.sync_api import Page

AXE = (Path(__file__).parent / "axe" / "axe.min.js").read_text(encoding="utf-8")
REPORTED = ("serious", "critical")


def faults(page: Page) -> list[str]:
    """What keeps people from using the page as it is now, one line each."""
    page.evaluate(AXE)
    found: list[dict[str, Any]] = page.evaluate(
        "axe.run(document, { resultTypes: ['violations'] }).then((results) => results.violations)"
    )
    return [
        f"{fault['id']} ({fault['impact']}): {node['html'][:200]}: {' '.join(node['failureSummary'].split())}"
        for fault in found
        if fault["impact"] in REPORTED
        for node in fault["nodes"]
    ]
