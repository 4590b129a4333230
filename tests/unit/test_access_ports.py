"""The ports of the server: TLS by certificate files, and administration on a port of its own."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from reheatd.access.cross_site import origins_of
from reheatd.access.guard import Access
from reheatd.access.keys import KeyRing, KeyStore
from reheatd.access.quotas import Quotas
from reheatd.access.tls import checked_certificate
from reheatd.api.server import Doors
from reheatd.client import Client
from reheatd.client.requests import Request
from reheatd.config_server import ServerSection
from reheatd.engine.client import EngineClient
from reheatd.errors import AuthenticationError, BadInputError, DaemonUnreachableError, EngineError, NotFoundError
from reheatd.process.http_server import HttpServer
from reheatd.process.instance import listen, url_of
from tests.access import CREDENTIALS
from tests.certificates import make_certificate
from tests.unit.api_support import ApiWorld
from tests.unit.test_gateway import World, in_world

STATUS = "/reheatd/v1/adapters"


def served(
    folder: Path,
    body: Callable[[str, str, str], Coroutine[Any, Any, None]],
    *,
    own_port: bool,
    certificate: tuple[Path, Path] | None = None,
) -> None:
    """Runs `body` with the URL for clients, the one for administration, and an admin's key."""

    async def with_gateway(world: World) -> None:
        api = ApiWorld(folder / "api")
        with api.db:
            _, token = KeyStore(api.db).create("ops", "admin")
        access = Access(KeyRing(api.db), Quotas(), CREDENTIALS, lambda job_id, attempt: attempt == 2, required=True)
        admin_routes = [route for route in api.app().routes if isinstance(route, Route)]
        with listen("127.0.0.1", 0) as listener, listen("127.0.0.1", 0) as other:
            doors = Doors(lambda: "starting", listener, other if own_port else None)
            doors.open(access, origins_of(ServerSection()), world.gateway.routes(), admin_routes)
            server = HttpServer(*doors.served, drain_timeout_s=1.0, certificate=certificate)
            server.start()
            scheme = "https" if certificate else "http"
            url, other_url = (url_of("127.0.0.1", on.getsockname()[1], scheme) for on in (listener, other))
            await body(url, other_url if own_port else url, token)
            await server.drain()
        api.db.close()

    in_world(folder, with_gateway)


async def get(url: str, path: str) -> Any:
    return await asyncio.to_thread(lambda: Client(url).send(Request("GET", path, json.loads)))


def test_administration_on_its_own_port_is_not_on_the_clients_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(url: str, admin_url: str, token: str) -> None:
        monkeypatch.setenv("REHEATD_API_KEY", token)
        assert (await get(admin_url, STATUS))["promoted"] == 0
        assert (await get(url, "/health"))["status"] == (await get(admin_url, "/health"))["status"] == "ready"
        assert [model["id"] for model in (await get(url, "/v1/models"))["data"]] == ["policy", "base", "policy-v0"]
        for wrong, path in ((url, STATUS), (url, "/reheatd/v1/jobs"), (admin_url, "/v1/models")):
            with pytest.raises(NotFoundError):
                await get(wrong, path)
        # A job finds its routes where it samples; this one does not exist, and says so.
        job = EngineClient(url, api_key=CREDENTIALS.of("rl-1", 2))
        async with job:
            with pytest.raises(Exception, match="job rl-1 does not exist"):
                await job._request("DELETE", "/reheatd/v1/jobs/rl-1/rollout-adapter")

    served(tmp_path, body, own_port=True)


def test_commands_send_the_key_in_the_environment_or_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(url: str, _: str, token: str) -> None:
        with pytest.raises(AuthenticationError, match="REHEATD_API_KEY"):
            await get(url, STATUS)
        monkeypatch.setenv("REHEATD_API_KEY", f" {token}\n")
        await get(url, STATUS)
        monkeypatch.delenv("REHEATD_API_KEY")
        file = tmp_path / "admin.key"
        monkeypatch.setenv("REHEATD_API_KEY_FILE", str(file))
        with pytest.raises(BadInputError, match="REHEATD_API_KEY_FILE"):
            await get(url, STATUS)
        file.write_text(f"{token}\n")
        await get(url, STATUS)
        monkeypatch.setenv("REHEATD_API_KEY", "two words")
        with pytest.raises(BadInputError, match="no spaces"):
            await get(url, STATUS)

    served(tmp_path, body, own_port=False)


def test_clients_speak_tls_with_an_authority_that_they_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = make_certificate(tmp_path)

    async def body(url: str, _: str, token: str) -> None:
        monkeypatch.setenv("REHEATD_API_KEY", token)
        worker = CREDENTIALS.of("rl-1", 2)
        with pytest.raises(DaemonUnreachableError, match=r"is not trusted .*REHEATD_CA_FILE"):
            await get(url, STATUS)
        async with EngineClient(url, api_key=worker) as client:
            with pytest.raises(EngineError, match="CERTIFICATE_VERIFY_FAILED"):
                await client._request("GET", "/v1/models")
        monkeypatch.setenv("REHEATD_CA_FILE", str(certificate[0]))
        await get(url, STATUS)
        async with EngineClient(url, api_key=worker) as client:
            assert len((await client._request("GET", "/v1/models"))["data"]) == 3
        async with EngineClient(url, api_key=CREDENTIALS.of("rl-1", 1)) as client:  # an attempt that is over
            with pytest.raises(EngineError) as refused:
                await client._request("GET", "/v1/models")
            assert not refused.value.is_transient
        monkeypatch.setenv("REHEATD_CA_FILE", str(certificate[1]))
        with pytest.raises(BadInputError, match="holds no certificates"):
            await get(url, STATUS)

    served(tmp_path, body, own_port=False, certificate=checked_certificate(section(*certificate)))


def section(certificate: Path, key: Path) -> ServerSection:
    return ServerSection(tls_certificate=certificate, tls_key=key)


def test_a_certificate_that_cannot_be_used_is_refused_before_anything_starts(tmp_path: Path) -> None:
    good, other = make_certificate(tmp_path / "good"), make_certificate(tmp_path / "other")
    locked = make_certificate(tmp_path / "locked", password=b"secret")
    missing, text = tmp_path / "missing.pem", tmp_path / "text.pem"
    text.write_text("no certificate")
    assert checked_certificate(ServerSection()) is None
    assert checked_certificate(section(*good)) == good
    for certificate, key, says in (
        (missing, good[1], "tls_certificate = .*missing.pem cannot be read"),
        (good[0], missing, "tls_key = .*missing.pem cannot be read"),
        (good[0], other[1], "mismatch"),
        (text, good[1], "cannot be used"),
        (good[0], text, "cannot be used"),
        (*locked, "needs a password"),
    ):
        with pytest.raises(BadInputError, match=says) as refused:
            checked_certificate(section(certificate, key))
        assert "\n" not in refused.value.message
