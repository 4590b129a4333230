"""Takes the pictures of the documentation: `python -m tests.browser.screenshots` writes docs/screenshots/*.png."""

import os
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser

from tests.browser.chromium import chromium
from tests.browser.history_daemon import history_daemon
from tests.browser.pages import PAGES, SCHEMES, WIDTHS, Scheme, Shown, drawn
from tests.daemon import Daemon
from tests.tiny_policy import build_tiny_policy

FOLDER = Path(__file__).parents[2] / "docs" / "screenshots"
WINDOWS, VERSIONS = 3000, 9
HEIGHT = 900
MOST_HEIGHT = 2400
"""Of a picture, in pixels; longer pages are cut off."""
COLOURS = 128


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    names = set(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="reheatd-screenshots-") as name:
        folder = Path(name)
        build_tiny_policy(folder / "tiny-policy")
        # The pages name the policy as it is configured.
        os.environ["PYTHONPATH"] = str(Path.cwd())
        os.chdir(folder)
        model = Path("tiny-policy")
        with history_daemon(folder, model, windows=WINDOWS, versions=VERSIONS) as daemon, chromium() as browser:
            for shown in PAGES:
                if shown.pictured and (not names or shown.name in names):
                    for scheme in SCHEMES:
                        for width in WIDTHS:
                            take(browser, daemon, shown, scheme, width)


def take(browser: Browser, daemon: Daemon, shown: Shown, scheme: Scheme, width: str) -> None:
    """Writes the picture of one page."""
    size = {"width": WIDTHS[width], "height": HEIGHT}
    with browser.new_context(base_url=daemon.url, color_scheme=scheme, viewport=size) as context:  # pyright: ignore[reportArgumentType]
        page = context.new_page()
        page.goto(shown.path.format(job=f"rl-{VERSIONS:08x}", version=VERSIONS, other=1))
        drawn(page, shown.curves)
        page.wait_for_timeout(500)  # until nothing moves any more
        height = min(page.evaluate("document.documentElement.scrollHeight"), MOST_HEIGHT)
        content = page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": WIDTHS[width], "height": height})
    picture = Image.open(BytesIO(content)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    path = FOLDER / f"{shown.name}-{scheme}-{width}.png"
    picture.save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size // 1024} KiB", flush=True)


if __name__ == "__main__":
    main()
