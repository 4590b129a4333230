"""The Chromium that tests of the dashboard drive: `python -m tests.browser.chromium` installs it if there is none."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
PACKAGES = ("chromium", "fonts-liberation")
"""Debian's packages; without a font, pages have no letters."""
HOW = (
    f"there is no Chromium; install one ({' or '.join(NAMES)}), e.g. on Debian and Ubuntu with `sudo apt-get install "
    f"{' '.join(PACKAGES)}`"
)
FLAGS = (
    "--no-sandbox",  # which root cannot have
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def executable() -> str:
    """Path of Chromium.

    Raises:
        RuntimeError: There is none; the message says how to install one.
    """
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise RuntimeError(HOW)
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """A running Chromium without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


def main() -> None:
    if any(map(shutil.which, NAMES)):
        return
    if os.geteuid() or shutil.which("apt-get") is None:
        sys.exit(f"reheatd: {HOW}")
    print("reheatd: installing Chromium, in which tests open the dashboard", flush=True)
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(["apt-get", "-qq", *command], env=quiet, stdout=subprocess.DEVNULL)
        if done.returncode:
            sys.exit(f"reheatd: apt-get {command[0]} failed; {HOW}")


if __name__ == "__main__":
    main()
