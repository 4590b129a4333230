"""The dashboard in front of the stand-ins of the control loop, and a reader of its pages.

`Page` is a page as a reader meets it; making one checks what holds for every page.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlencode

import httpx
from starlette.applications import Starlette
from starlette.routing import Route

from reheatd.access.keys import KeyRing
from reheatd.api.context import ApiContext
from reheatd.api.errors import exception_handlers
from reheatd.api.routes import api_routes
from reheatd.dashboard.dashboard import Dashboard
from reheatd.entropy.meter import EntropyMeter, Sampler
from reheatd.entropy.monitor import EntropyMonitor, MeasurementProgress
from reheatd.entropy.probes import ProbeSet
from tests.unit.api_support import ApiWorld
from tests.unit.control_support import FakeMonitor
from tests.unit.test_adapters_store import FIELDS

Client = httpx.AsyncClient
W = TypeVar("W", bound="DashboardWorld")
VOID = frozenset({"area", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"})
LABELLED = ("input", "select", "textarea", "meter", "progress")


class PageMonitor(FakeMonitor):
    """A monitor that says what a test sets. Its estimates are real ones, for a vocabulary of 100 tokens."""

    max_tokens = 64

    def __init__(self) -> None:
        super().__init__()
        probes = ProbeSet.of([[{"role": "user", "content": f"What is {number} + {number}?"}] for number in range(8)])
        self.meter = EntropyMeter(cast(Sampler, None), probes, max_tokens=64, top_k=3, confidence=0.95, vocab_size=100)
        self.progress: MeasurementProgress | None = None
        self.problem: str | None = None
        self.next_at: float | None = None


class DashboardWorld(ApiWorld):
    """The admin API and the dashboard. `shown` is the monitor that pages ask, `gateway` the routes for questions."""

    def __init__(self, folder: Path, **sections: dict[str, Any]) -> None:
        super().__init__(folder, **sections)
        self.shown = PageMonitor()
        self.gateway: Sequence[Route] = []

    def context(self) -> ApiContext:
        return replace(super().context(), monitor=cast(EntropyMonitor, self.shown))

    def app(self) -> Starlette:
        context = self.context()
        self.dashboard = Dashboard(context, KeyRing(self.db), self.gateway)
        routes = [*api_routes(context), *self.dashboard.routes()]
        return Starlette(routes=routes, exception_handlers=exception_handlers())

    async def publish(self, content: str = "weights", report: Path | None = None, **lineage: Any) -> int:
        """A new version with these fields of `Lineage`."""
        folder = self.folder / f"trained-{content}"
        folder.mkdir(exist_ok=True)
        (folder / "adapter_model.safetensors").write_text(content)
        (folder / "adapter_config.json").write_text("{}")
        return (await self.store.publish(folder, report, **{**FIELDS, **lineage})).version


@dataclass
class Element:
    """An element of a page."""

    tag: str
    attributes: dict[str, str]
    children: "list[Element | str]" = field(default_factory=list)

    def walk(self) -> "Iterator[Element]":
        """This element and all inside it, in the order of the page."""
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    def all(self, tag: str | None = None, class_: str | None = None, **attributes: str) -> "list[Element]":
        """The elements inside that have this tag, class and attributes; underscores in names stand for dashes."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        return [
            element
            for element in self.walk()
            if element is not self
            and tag in (None, element.tag)
            and (class_ is None or class_ in element.attributes.get("class", "").split())
            and all(element.attributes.get(name) == value for name, value in wanted.items())
        ]

    def one(self, tag: str | None = None, class_: str | None = None, **attributes: str) -> "Element":
        found = self.all(tag, class_, **attributes)
        assert len(found) == 1, f"{len(found)} of {tag} {class_} {attributes} in: {self.text}"
        return found[0]

    @property
    def text(self) -> str:
        """What a reader sees, with single spaces."""
        return " ".join(self._raw().split())

    def _raw(self) -> str:
        if self.tag in ("script", "style"):
            return ""
        parts = [child if isinstance(child, str) else child._raw() for child in self.children]
        inline = self.tag in ("a", "strong", "em", "code", "small", "span", "time", "mark", "b", "i")
        return "".join(parts) if inline else " " + "".join(parts) + " "

    @property
    def links(self) -> dict[str, str]:
        """Where links lead, by their texts."""
        return {link.text: link.attributes["href"] for link in self.all("a")}


class _Reader(HTMLParser):
    """Builds the tree; every element but a void one must be closed in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Element("document", {})
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        assert len(element.attributes) == len(attrs), f"an attribute comes twice: {self.get_starttag_text()}"
        self._open[-1].children.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert self._open[-1].tag == tag, f"</{tag}> closes <{self._open[-1].tag}> at {self.getpos()}"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)

    def close(self) -> None:
        super().close()
        assert self._open == [self.root], f"<{self._open[-1].tag}> is not closed"


def parse(html: str) -> Element:
    """The tree of a page or of a fragment."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.root


class Page(Element):
    """A whole page, checked for what holds for all of them."""

    def __init__(self, answer: httpx.Response) -> None:
        assert answer.headers["content-type"] == "text/html; charset=utf-8", answer.text
        super().__init__("document", {}, parse(answer.text).children)
        self.status = answer.status_code
        self.answer = answer
        assert "default-src 'self'" in answer.headers["content-security-policy"]
        self._check_markup()
        self._check_reading()

    @property
    def title(self) -> str:
        return self.one("title").text

    @property
    def main(self) -> Element:
        return self.one("main")

    @property
    def problem(self) -> str:
        """What is said to be wrong."""
        return self.one(class_="problem").text

    def _check_markup(self) -> None:
        """The content security policy allows no inline script or style; ids are unique."""
        for element in self.walk():
            assert not any(name.startswith("on") or name == "style" for name in element.attributes), element.attributes
            assert element.tag != "style" and (element.tag != "script" or "src" in element.attributes)
        ids = [element.attributes["id"] for element in self.walk() if "id" in element.attributes]
        assert len(ids) == len(set(ids)), ids

    def _check_reading(self) -> None:
        """There is one main heading, headings are in order, and what is entered or drawn has a label."""
        headings = [int(element.tag[1]) for element in self.main.walk() if element.tag in ("h1", "h2", "h3", "h4")]
        assert headings.count(1) == 1 and headings[0] == 1, headings
        assert all(below - above <= 1 for above, below in pairwise(headings)), headings
        labelled = {label.attributes.get("for") for label in self.all("label")}
        inside = {id(element) for label in self.all("label") for element in label.walk()}
        for element in self.walk():
            kind, attributes = element.attributes.get("type"), element.attributes
            if element.tag in LABELLED and kind != "hidden" and "aria-label" not in attributes:
                assert id(element) in inside or attributes.get("id") in labelled, f"no label: {element}"
            if element.tag == "img":
                assert attributes.get("alt"), f"no alternative text: {element}"
            if element.tag in ("a", "button"):
                named = element.text or attributes.get("aria-label") or element.all("img")
                assert named, f"no text: {element}"


async def get(client: Client, path: str, status: int = 200) -> Page:
    """The page at this path."""
    answer = await client.get(path)
    assert answer.status_code == status, answer.text
    return Page(answer)


async def post(client: Client, path: str, **form: str) -> httpx.Response:
    """Sends a form as a browser does."""
    headers = {"content-type": "application/x-www-form-urlencoded"}
    return await client.post(path, content=urlencode(form), headers=headers)


async def follow(client: Client, answer: httpx.Response) -> Page:
    """The page to which the answer to a form leads."""
    assert answer.status_code == 303, answer.text
    return await get(client, answer.headers["location"])


async def first_event(client: Client, world: DashboardWorld, path: str) -> Element:
    """The first fragment that a live stream sends; the streams of all pages end with it."""
    live, world.dashboard._live._closed = world.dashboard._live, False
    asking = asyncio.ensure_future(client.get(path))
    await world.until(lambda: asking.done() or any(topic.number for topic in live._topics.values()))
    live.close()  # what has been rendered is sent all the same
    answer = await asking
    assert answer.status_code == 200, answer.text
    lines = answer.text.partition("\n\n")[0].splitlines()
    return parse("\n".join(line.removeprefix("data: ") for line in lines))


def browse(world: W, story: Callable[[Client, W], Coroutine[Any, Any, None]]) -> None:
    """Tells `story` with a client that asks as a browser does."""

    async def run() -> None:
        transport = httpx.ASGITransport(world.app(), raise_app_exceptions=False)
        accepts = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
        async with world, Client(transport=transport, base_url="http://daemon", headers=accepts) as client:
            await story(client, world)

    asyncio.run(run())
