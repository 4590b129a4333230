"""Pages behind the guard: who sees them, how a browser logs in, and what it keeps."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from reheatd.access.guard import KEY_COOKIE
from reheatd.access.keys import KeyStore
from tests.access import guarded
from tests.unit.dashboard_support import Client, DashboardWorld, Page, follow, get, post


class Locked(DashboardWorld):
    """A dashboard that needs a key, with a key of each role."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, server={"require_keys": True})
        with self.db:
            store = KeyStore(self.db)
            self.admin = store.create("ops", "admin")[1]
            self.inference = store.create("ci")[1]

    def client(self, scheme: str = "http") -> Client:
        app = guarded(self.app(), self.db, required=True)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        return Client(transport=transport, base_url=f"{scheme}://daemon", headers={"accept": "text/html"})


def talk(world: Locked, story: Callable[[Client], Coroutine[Any, Any, None]], scheme: str = "http") -> None:
    async def run() -> None:
        async with world, world.client(scheme) as client:
            await story(client)

    asyncio.run(run())


def test_a_browser_is_led_to_the_login_and_back(tmp_path: Path) -> None:
    world = Locked(tmp_path)

    async def story(client: Client) -> None:
        sent = await client.get("/ui/actions/promote?version=3")
        assert sent.status_code == 303
        page = await follow(client, sent)
        assert page.one("h1").text == "Log in"
        assert page.one("input", name="next").attributes["value"] == "/ui/actions/promote?version=3"
        answer = await post(client, "/ui/login", key=f" {world.admin} ", next="/ui/actions/promote?version=3")
        assert (answer.status_code, answer.headers["location"]) == (303, "/ui/actions/promote?version=3")
        cookie = answer.headers["set-cookie"]
        assert f"{KEY_COOKIE}={world.admin}" in cookie and "HttpOnly" in cookie and "SameSite=strict" in cookie
        assert "Secure" not in cookie
        page = await get(client, "/")
        assert page.main.text
        assert page.one("form", action="/ui/logout").one("button").text == "Log out"
        assert page.one("form", action="/ui/logout").attributes["method"] == "post"
        page = await follow(client, await post(client, "/ui/logout"))
        assert page.one(class_="notice").text == "You are logged out."
        assert (await client.get("/")).status_code == 303

    talk(world, story)


def test_over_tls_the_cookie_travels_over_tls_alone(tmp_path: Path) -> None:
    world = Locked(tmp_path)

    async def story(client: Client) -> None:
        answer = await post(client, "/ui/login", key=world.admin)
        assert "Secure" in answer.headers["set-cookie"]

    talk(world, story, "https")


def test_a_key_that_does_not_open_the_pages_is_refused_in_place(tmp_path: Path) -> None:
    world = Locked(tmp_path)

    async def story(client: Client) -> None:
        for key, says in (
            ("", "not known"),
            ("rhd-no<such>key", "not known"),
            (world.inference, "Key ci is for inference"),
        ):
            answer = await post(client, "/ui/login", key=key, next="/ui/jobs")
            assert answer.status_code == 401 and "set-cookie" not in answer.headers
            page = Page(answer)
            assert says in page.problem and page.one("input", name="next").attributes["value"] == "/ui/jobs"
        client.cookies.set(KEY_COOKIE, world.inference)
        assert (await client.get("/")).status_code == 303

    talk(world, story)


@pytest.mark.parametrize("path", ["//evil.example", "/\\evil.example", "https://evil.example", "evil", ""])
def test_a_login_leads_to_no_other_server(tmp_path: Path, path: str) -> None:
    world = Locked(tmp_path)

    async def story(client: Client) -> None:
        answer = await post(client, "/ui/login", key=world.admin, next=path)
        assert answer.headers["location"] == "/"

    talk(world, story)


def test_the_cookie_opens_pages_and_nothing_else(tmp_path: Path) -> None:
    world = Locked(tmp_path)

    async def story(client: Client) -> None:
        client.cookies.set(KEY_COOKIE, world.admin)
        assert (await client.get("/")).status_code == 200
        assert (await client.get("/reheatd/v1/status")).status_code == 401
        assert (await client.post("/reheatd/v1/adapters/rollback")).status_code == 401
        world.ledger.requested("nothing")
        await post(client, "/ui/actions/resume")
        assert world.ledger.entries(1)[0].actor in (None, "ops")

    talk(world, story)


def test_what_scripts_ask_is_refused_as_json_and_what_the_login_needs_is_open(tmp_path: Path) -> None:
    world = Locked(tmp_path)

    async def story(client: Client) -> None:
        answer = await client.get("/ui/now.json", headers={"accept": "*/*"})
        assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
        page = await get(client, "/ui/login")
        for link in page.one("head").all("link") + page.one("head").all("script"):
            asset = await client.get(link.attributes.get("href") or link.attributes["src"])
            assert asset.status_code == 200 and asset.content
            assert asset.headers["cache-control"] == "public, max-age=31536000, immutable"

    talk(world, story)


def test_only_assets_are_served(tmp_path: Path) -> None:
    world = Locked(tmp_path)

    async def story(client: Client) -> None:
        for name in ("nothing.js", "vendor/README.md", "vendor/htmx.LICENSE", "../dashboard.py", "%2e%2e/dashboard.py"):
            assert (await client.get(f"/ui/static/{name}")).status_code in (303, 404), name
        css = await client.get("/ui/static/dashboard.css")
        assert css.headers["content-type"].startswith("text/css")

    talk(world, story)


def test_without_keys_nobody_has_to_log_in(tmp_path: Path) -> None:
    world = DashboardWorld(tmp_path)

    async def run() -> None:
        app = guarded(world.app(), world.db)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with world, Client(transport=transport, base_url="http://daemon") as client:
            page = await get(client, "/")
            assert not page.all("form", action="/ui/logout")

    asyncio.run(run())
