"""Renders templates into pages and fragments of pages."""

import time
from functools import cache
from urllib.parse import quote, unquote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse

from reheatd.dashboard.assets import Assets
from reheatd.measures import Accuracy, EntropyEstimate, PassRate
from reheatd.names import version_name
from reheatd.text import duration

PAGES = {
    "/": "Now",
    "/ui/entropy": "Entropy",
    "/ui/versions": "Versions",
    "/ui/jobs": "Jobs",
    "/ui/journal": "Journal",
    "/ui/configuration": "Configuration",
    "/ui/chat": "Chat",
}
"""The pages in the navigation, by path."""
SECURITY_HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; style-src 'self'; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}
NOTICE_COOKIE = "reheatd_notice"
NOTHING = "–"


class Renderer:
    """Makes HTML from the package's templates; what they are given is escaped.

    Args:
        policy: The base model, which all pages name.
        keys_needed: Whether there is somebody to log out.
    """

    def __init__(self, assets: Assets, *, policy: str, keys_needed: bool) -> None:
        self._templates = _environment()
        self._known = {"asset": assets.url, "policy": policy, "keys_needed": keys_needed}

    def load(self) -> None:
        """Reads all templates now, not when each is first needed."""
        for name in self._templates.list_templates():
            self._templates.get_template(name)

    def fragment(self, template: str, **values: object) -> str:
        """A part of a page."""
        return self._templates.get_template(template).render(self._known, **values)

    def page(self, request: Request, template: str, *, status: int = 200, **values: object) -> HTMLResponse:
        """A whole page, with the notice that the request before has left."""
        notice = request.cookies.get(NOTICE_COOKIE)
        made = HTMLResponse(
            self.fragment(template, path=request.url.path, notice=notice and unquote(notice), **values),
            status,
            headers=SECURITY_HEADERS,
        )
        if notice is not None:
            made.delete_cookie(NOTICE_COOKIE)
        return made


@cache
def _environment() -> Environment:
    """The templates, all of them compiled: that takes too long for a moment in which clients' streams wait."""
    environment = Environment(
        loader=PackageLoader("reheatd.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,  # a daemon whose package is upgraded meanwhile keeps the templates of its code
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        nats=nats, interval=interval, share=share, percent=percent, duration=duration, moment=moment, ago=ago
    )
    environment.filters["bytes"] = in_bytes
    environment.filters["code"] = code
    environment.globals.update(pages=PAGES, version_name=version_name)
    for name in environment.list_templates():
        environment.get_template(name)
    return environment


def leave_for(path: str, notice: str | None = None) -> RedirectResponse:
    """Leads to another page, which shows the notice once.

    Args:
        path: A path of this server.
    """
    answer = RedirectResponse(path, 303)
    if notice is not None:
        answer.set_cookie(NOTICE_COOKIE, quote(notice), max_age=60, httponly=True, samesite="strict")
    return answer


def nats(value: float | None) -> str:
    """An entropy in nats per token; small ones keep their digits."""
    return NOTHING if value is None else f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.3g}"


def interval(estimate: EntropyEstimate | None) -> Markup:
    if estimate is None:
        return Markup(NOTHING)
    return Markup("{} <small>[{}, {}]</small>").format(nats(estimate.mean), nats(estimate.low), nats(estimate.high))


def share(value: Accuracy | PassRate | None) -> Markup:
    if value is None:
        return Markup(NOTHING)
    return Markup("{:.1%} <small>[{:.1%}, {:.1%}]</small>").format(value.value, value.low, value.high)


def code(text: str) -> Markup:
    """A text in which what stands between backticks is code."""
    parts = text.split("`")
    return Markup().join(
        Markup("<code>{}</code>").format(part) if index % 2 and index < len(parts) - 1 else part
        for index, part in enumerate(parts)
    )


def percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.0%}"


def in_bytes(count: int | None) -> str:
    """A number of bytes for people, e.g. `4.2 MB`."""
    if count is None:
        return NOTHING
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= least:
            return f"{count / least:.1f} {unit}"
    return f"{count} bytes"


def moment(timestamp: float | None) -> Markup:
    """A point in time, in the daemon's time zone."""
    if timestamp is None:
        return Markup(NOTHING)
    local = time.localtime(timestamp)
    exact = time.strftime("%Y-%m-%dT%H:%M:%S%z", local)
    return Markup('<time datetime="{}">{}</time>').format(exact, time.strftime("%Y-%m-%d %H:%M:%S", local))


def ago(timestamp: float | None) -> Markup:
    """How long ago a point in time was, with the time itself in its title."""
    if timestamp is None:
        return Markup(NOTHING)
    local = time.localtime(timestamp)
    exact, title = time.strftime("%Y-%m-%dT%H:%M:%S%z", local), time.strftime("%Y-%m-%d %H:%M:%S", local)
    return Markup('<time datetime="{}" title="{}">{} ago</time>').format(
        exact, title, duration(time.time() - timestamp)
    )
