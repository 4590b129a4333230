"""What web pages cannot do: ask a server that they do not belong to, under its own name or another."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from reheatd.access.cross_site import CrossSiteGuard, Origins, origins_of
from reheatd.access.guard import Access
from reheatd.access.keys import KeyRing, KeyStore
from reheatd.access.quotas import Quotas
from reheatd.api.server import Doors
from reheatd.config import load_settings
from reheatd.config_server import ServerSection
from reheatd.errors import ConfigError, NotPermittedError
from reheatd.process.instance import listen
from tests.access import CREDENTIALS
from tests.unit.api_support import ApiWorld

LOOPBACK = {"host": "127.0.0.1:8000"}
ROLLBACK = "/reheatd/v1/adapters/rollback"
APP = "https://app.example.org"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}


def refused(origins: Origins, method: str, headers: dict[str, str], *, path: str = ROLLBACK) -> str | None:
    """The setting or header that a refusal is about; None if the request may come in."""
    try:
        origins.check(method, headers, path)
    except NotPermittedError as error:
        return error.param
    return None


@pytest.mark.parametrize(
    ("headers", "param"),
    [
        ({}, None),  # a program
        ({"sec-fetch-site": "same-origin", "origin": "http://127.0.0.1:8000"}, None),
        ({"sec-fetch-site": "none"}, None),
        ({"sec-fetch-site": "cross-site"}, "origin"),
        ({"sec-fetch-site": "same-site"}, "origin"),
        ({"sec-fetch-site": "cross-site", "origin": "https://evil.example"}, "origin"),
        ({"sec-fetch-site": "cross-site", "origin": "http://127.0.0.1:8000"}, "origin"),
        ({"origin": "https://evil.example"}, "origin"),  # a browser without Sec-Fetch-Site
        ({"origin": "http://127.0.0.1:3000"}, "origin"),
        ({"origin": "http://localhost:8000"}, "origin"),
        ({"origin": "null"}, "origin"),
        ({"origin": ""}, "origin"),
        ({"origin": "http://[::1"}, "origin"),
        ({"origin": "http://127.0.0.1:port"}, "origin"),
    ],
)
def test_a_page_of_another_origin_changes_nothing(headers: dict[str, str], param: str | None) -> None:
    for keys in (False, True):
        origins = origins_of(ServerSection(require_keys=keys))
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert refused(origins, method, LOOPBACK | headers) == param
        for method in ("GET", "HEAD", "OPTIONS"):
            assert refused(origins, method, LOOPBACK | headers) is None


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("127.0.0.1:8000", True),
        ("127.0.0.1", True),
        ("127.9.9.9:1", True),
        ("localhost:8000", True),
        ("LocalHost:8000", True),
        ("app.localhost:8000", True),
        ("[::1]:8000", True),
        ("", True),  # HTTP/1.0, which no browser speaks
        ("evil.example:8000", False),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("10.0.0.1:8000", False),
        ("[::1", False),
    ],
)
def test_without_keys_the_server_answers_to_its_own_names_only(host: str, is_own: bool) -> None:
    without = origins_of(ServerSection())
    for method in ("GET", "POST"):
        assert refused(without, method, {"host": host}) == (None if is_own else "host")
        assert refused(origins_of(ServerSection(require_keys=True)), method, {"host": host}) is None
    assert refused(without, "GET", {"host": host}, path="/health") is None


def test_a_rebound_name_is_refused_though_the_page_calls_it_its_own() -> None:
    headers = {"host": "evil.example:8000", "origin": "http://evil.example:8000", "sec-fetch-site": "same-origin"}
    assert refused(origins_of(ServerSection()), "POST", headers) == "host"


@pytest.mark.parametrize("host", ["reheatd.example.org", "reheatd.example.org:443", "127.0.0.1:8000"])
def test_a_proxy_in_front_is_named_by_public_url(host: str) -> None:
    """Whether or not the proxy passes on the name under which it was asked."""
    headers = {"host": host, "origin": "https://reheatd.example.org", "sec-fetch-site": "same-origin"}
    assert refused(origins_of(ServerSection()), "POST", headers) is not None
    for url in ("https://reheatd.example.org", "https://reheatd.example.org:443/"):
        assert refused(origins_of(ServerSection(public_url=url)), "POST", headers) is None


def test_the_names_of_both_ports_are_the_servers_own() -> None:
    origins = origins_of(ServerSection(host="localhost", admin_port=8001, admin_host="127.0.0.9"))
    assert refused(origins, "POST", {"host": "127.0.0.9:8001"}) is None


def test_origins_that_are_named_may_ask() -> None:
    origins = origins_of(ServerSection(cors_origins=[APP]))
    for site in ("cross-site", "same-site"):
        assert refused(origins, "POST", LOOPBACK | {"origin": APP, "sec-fetch-site": site}) is None
        assert refused(origins, "POST", LOOPBACK | {"origin": f"{APP}:444", "sec-fetch-site": site}) == "origin"
        assert refused(origins, "POST", LOOPBACK | {"sec-fetch-site": site}) == "origin"
    everybody = origins_of(ServerSection(cors_origins=["*"], require_keys=True))
    assert refused(everybody, "POST", LOOPBACK | {"origin": APP, "sec-fetch-site": "cross-site"}) is None


@pytest.mark.parametrize(
    ("origin", "why"),
    [
        ("*", "every web page"),
        ("null", "'null', which is no origin"),
        ("https://app.example.org/", "no origin"),
        ("https://app.example.org/path", "no origin"),
        ("https://App.example.org", "small letters"),
        ("app.example.org", "no origin"),
        ("https://*.example.org", "no origin"),
        ("", "no origin"),
    ],
)
def test_origins_that_cannot_be_used_are_named(origin: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as error:
        load_settings(None, {"server": {"cors_origins": ["http://localhost:3000", origin]}})
    assert "cors_origins" in error.value.message


@pytest.mark.parametrize(
    "url", ["reheatd.example.org", "ftp://reheatd.example.org", "https://", "http://[::1", "http://a:b"]
)
def test_a_public_url_that_is_none_is_named(url: str) -> None:
    with pytest.raises(ConfigError, match="public_url"):
        load_settings(None, {"server": {"public_url": url}})


def served(
    folder: Path, story: Callable[[httpx.AsyncClient, str], Coroutine[Any, Any, None]], server: ServerSection
) -> None:
    """Runs `story` with a client of the admin API as it is served with these settings, and an admin's key."""

    async def run() -> None:
        async with ApiWorld(folder) as world:
            assert isinstance(world, ApiWorld)
            with world.db:
                _, token = KeyStore(world.db).create("ops", "admin")
            routes = [route for route in world.app().routes if isinstance(route, Route)]
            with listen("127.0.0.1", 0) as listener:
                doors = Doors(lambda: "starting", listener, None)
            access = Access(
                KeyRing(world.db), Quotas(), CREDENTIALS, lambda job_id, attempt: False, required=server.needs_keys
            )
            doors.open(access, origins_of(server), [], routes)
            transport = httpx.ASGITransport(doors.served[0][0], raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
                await story(client, token)

    asyncio.run(run())


def test_a_page_cannot_roll_back(tmp_path: Path) -> None:
    async def story(client: httpx.AsyncClient, token: str) -> None:
        for headers in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}, {"host": "evil.example"}):
            answer = await client.post(ROLLBACK, headers=headers)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["type"]) == (
                403,
                "permission_denied",
                "invalid_request_error",
            )
            assert "server." in error["message"] and "\n" not in error["message"]
            assert "access-control-allow-origin" not in answer.headers
        assert (await client.post(ROLLBACK)).status_code == 409  # there is nothing to roll back to
        assert (await client.get("/reheatd/v1/status", headers={"host": "evil.example"})).status_code == 403

    served(tmp_path, story, ServerSection())


@pytest.mark.parametrize(
    ("headers", "is_let_in"),
    [
        ({"origin": "http://127.0.0.1:8000"}, True),
        ({}, True),  # a program
        ({"origin": "https://evil.example"}, False),
        ({"origin": "http://evil.example", "host": "evil.example"}, False),
    ],
)
def test_a_page_cannot_open_a_socket(headers: dict[str, str], is_let_in: bool) -> None:
    arrived: list[Scope] = []
    sent: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        arrived.append(scope)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    raw = [(name.encode(), value.encode()) for name, value in (LOOPBACK | headers).items()]
    scope: Scope = {"type": "websocket", "path": "/socket", "headers": raw}
    asyncio.run(CrossSiteGuard(app, origins_of(ServerSection()))(scope, receive, send))
    assert bool(arrived) is is_let_in
    assert [message["type"] for message in sent] == ([] if is_let_in else ["websocket.close"])


def test_a_named_origin_gets_cors_before_the_guard(tmp_path: Path) -> None:
    async def story(client: httpx.AsyncClient, token: str) -> None:
        asked = await client.options(ROLLBACK, headers={"origin": APP, **PREFLIGHT})
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == APP
        assert "authorization" in asked.headers["access-control-allow-headers"]
        other = await client.options(ROLLBACK, headers={"origin": "https://evil.example", **PREFLIGHT})
        assert other.status_code == 400 and "access-control-allow-origin" not in other.headers
        without_key = await client.post(ROLLBACK, headers={"origin": APP, "sec-fetch-site": "cross-site"})
        assert (without_key.status_code, without_key.headers["access-control-allow-origin"]) == (401, APP)
        key = {"authorization": f"Bearer {token}"}
        answer = await client.get("/reheatd/v1/status", headers={"origin": APP, **key})
        assert answer.status_code == 200
        assert "x-reheatd-version" in answer.headers["access-control-expose-headers"]
        assert answer.headers["vary"] == "Origin"
        hidden = await client.get("/reheatd/v1/status", headers={"origin": "https://evil.example", **key})
        assert "access-control-allow-origin" not in hidden.headers

    served(tmp_path, story, ServerSection(require_keys=True, cors_origins=[APP]))


def test_without_the_setting_there_is_no_cors(tmp_path: Path) -> None:
    async def story(client: httpx.AsyncClient, token: str) -> None:
        asked = await client.options(ROLLBACK, headers={"origin": APP, **PREFLIGHT})
        assert "access-control-allow-origin" not in asked.headers
        assert asked.status_code == 405

    served(tmp_path, story, ServerSection())
