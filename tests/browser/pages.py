"""All pages of the dashboard, for what is done with each of them; a new page gets a row in `PAGES`."""

from dataclasses import dataclass
from typing import Literal

from playwright.sync_api import Page

Scheme = Literal["light", "dark"]

WIDTHS = {"narrow": 360, "wide": 1400}
"""Of the window, in pixels; a telephone's and a desktop's."""
SCHEMES: tuple[Scheme, ...] = ("light", "dark")


@dataclass(frozen=True)
class Shown:
    """A page.

    `path` may hold `{job}`, the id of a job that is over, `{version}`, the number of a version that it made, and
    `{other}`, that of a version that is not promoted.
    """

    name: str
    path: str
    curves: int = 0
    """Number of curves that are drawn on it."""
    pictured: bool = True
    """Whether `make screenshots` takes a picture of it."""


PAGES = (
    Shown("now", "/", curves=1),
    Shown("entropy", "/ui/entropy", curves=2),
    Shown("versions", "/ui/versions"),
    Shown("version", "/ui/versions/{version}"),
    Shown("compare", "/ui/compare?a={other}&b={version}"),
    Shown("chat", "/ui/chat"),
    Shown("jobs", "/ui/jobs"),
    Shown("job", "/ui/jobs/{job}", curves=1, pictured=False),
    Shown("rollouts", "/ui/jobs/{job}/rollouts", pictured=False),
    Shown("journal", "/ui/journal"),
    Shown("configuration", "/ui/configuration"),
    Shown("promote", "/ui/actions/promote?version={other}", pictured=False),
    Shown("reheat", "/ui/actions/reheat", pictured=False),
    Shown("login", "/ui/login", pictured=False),
    Shown("missing", "/ui/nowhere", pictured=False),
)


def drawn(page: Page, curves: int) -> None:
    """Waits until the curves of a page are drawn."""
    page.wait_for_function("(curves) => document.querySelectorAll('.chart .u-over').length === curves", arg=curves)
