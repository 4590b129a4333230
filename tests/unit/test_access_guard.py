"""Who may come in where: what is refused and what is not, on the real routes behind the real guard."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from reheatd.access.jobs import JobCredentials, job_credentials
from reheatd.access.keys import KeyStore
from reheatd.database import connect
from reheatd.errors import BadInputError
from reheatd.jobs.contracts import JobStatus
from tests.access import as_job, guarded
from tests.unit.api_support import ApiWorld
from tests.unit.test_gateway import CHAT, World, in_world, served_by

STATUS = "/reheatd/v1/status"
ADMIN_ROUTES = [
    ("GET", STATUS),
    ("GET", "/metrics"),
    ("GET", "/reheatd/v1/journal"),
    ("GET", "/reheatd/v1/events"),
    ("GET", "/reheatd/v1/entropy"),
    ("POST", "/reheatd/v1/entropy/measure"),
    ("GET", "/reheatd/v1/adapters"),
    ("PUT", "/reheatd/v1/adapters"),
    ("POST", "/reheatd/v1/adapters/1/promote"),
    ("POST", "/reheatd/v1/adapters/rollback"),
    ("POST", "/reheatd/v1/adapters/prune"),
    ("GET", "/reheatd/v1/adapters/1/files"),
    ("DELETE", "/reheatd/v1/adapters/1"),
    ("POST", "/reheatd/v1/jobs"),
    ("GET", "/reheatd/v1/jobs/rl-1/rollouts"),
    ("POST", "/reheatd/v1/jobs/rl-1/cancel"),
    ("POST", "/reheatd/v1/jobs/rl-1/approve"),
    ("POST", "/reheatd/v1/control/resume"),
    ("GET", "/reheatd/v1/"),
    ("GET", "/V1/models"),
    ("GET", "/v1"),
]


class Admin(ApiWorld):
    """The admin API behind the guard, with a key of each role."""

    def __init__(self, folder: Path, *, required: bool = True) -> None:
        super().__init__(folder)
        self.required = required
        with self.db:
            store = KeyStore(self.db)
            self.admin = bearer(store.create("ops", "admin")[1])
            self.inference = bearer(store.create("ci")[1])
            old = store.create("old", "admin")[1]
            store.revoke("old")
            self.revoked = bearer(old)

    def client(self) -> httpx.AsyncClient:
        app = guarded(self.app(), self.db, required=self.required, is_current=self.controller.is_current)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://daemon")


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def talk(world: Admin, story: Callable[[httpx.AsyncClient], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with world, world.client() as client:
            await story(client)

    asyncio.run(run())


def refused(answer: httpx.Response, status: int, code: str) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error["code"] == code and error["type"] == "invalid_request_error" and "\n" not in error["message"]


def test_administration_needs_a_key_for_administration(tmp_path: Path) -> None:
    world = Admin(tmp_path)

    async def story(client: httpx.AsyncClient) -> None:
        for method, path in ADMIN_ROUTES:
            nobody = await client.request(method, path)
            refused(nobody, 401, "invalid_api_key")
            assert nobody.headers["www-authenticate"].startswith("Bearer")
            for unknown in (world.revoked, bearer("rh-none"), bearer(""), {"authorization": "Basic b3BzOg=="}):
                refused(await client.request(method, path, headers=unknown), 401, "invalid_api_key")
            refused(await client.request(method, path, headers=world.inference), 403, "permission_denied")
        assert (await client.get(STATUS, headers=world.admin)).status_code == 200
        as_x_api_key = {"x-api-key": world.admin["authorization"].removeprefix("Bearer ")}
        assert (await client.get(STATUS, headers=as_x_api_key)).status_code == 200
        assert not world.jobs()

    talk(world, story)


def test_health_is_open_and_says_nothing_else(tmp_path: Path) -> None:
    world = Admin(tmp_path)

    async def story(client: httpx.AsyncClient) -> None:
        for headers in ({}, world.revoked, world.admin):
            answer = await client.get("/health", headers=headers)
            assert (answer.status_code, answer.json()) == (200, {"status": "ready"})

    talk(world, story)


def test_where_no_key_is_needed_an_unknown_one_is_ignored_and_a_known_one_counts(tmp_path: Path) -> None:
    world = Admin(tmp_path, required=False)

    async def story(client: httpx.AsyncClient) -> None:
        for headers in ({}, bearer("none"), world.revoked, world.admin):
            assert (await client.get(STATUS, headers=headers)).status_code == 200
        refused(await client.get(STATUS, headers=world.inference), 403, "permission_denied")

    talk(world, story)


def test_the_journal_names_who_did_what(tmp_path: Path) -> None:
    world = Admin(tmp_path, required=False)

    async def story(client: httpx.AsyncClient) -> None:
        job = (await client.post("/reheatd/v1/jobs", json={"kind": "rl"}, headers=world.admin)).json()["job_id"]
        await world.train(await world.until_submitted())
        await world.until(lambda: world.store.promoted() == 1)
        other = (await client.post("/reheatd/v1/jobs", json={"kind": "rl"})).json()["job_id"]
        await client.post(f"/reheatd/v1/jobs/{other}/cancel", headers=world.admin)
        await world.until_status(other, JobStatus.CANCELLED)
        await client.post("/reheatd/v1/adapters/rollback", headers=world.admin)
        await client.delete("/reheatd/v1/adapters/1", headers=world.admin)
        await client.post("/reheatd/v1/adapters/prune", json={"keep": 1})
        told = [(entry.event, entry.actor, entry.reason) for entry in world.ledger.entries(99)]
        assert [entry for entry in told if entry[1] is not None] == [
            ("requested", "ops", f"{job} submitted"),
            ("requested", "local", f"{other} submitted"),
            ("requested", "ops", f"{other} cancelled"),
            ("promoted", "ops", "policy-v0 rolled back by request"),
            ("requested", "ops", "policy-v1 deleted"),
            ("requested", "local", "nothing deleted, to keep the newest 1"),
        ]
        # What the daemon did by itself, for the same job, names nobody.
        assert ("promoted", None, f"policy-v1 by {job} is promoted") in told

    talk(world, story)


def test_a_job_loads_its_own_rollout_adapters_in_its_present_attempt_and_nobody_else_does(tmp_path: Path) -> None:
    world = Admin(tmp_path, required=False)

    async def story(client: httpx.AsyncClient) -> None:
        await client.post("/reheatd/v1/jobs", json={"kind": "rl"})
        spec = await world.until_submitted()
        snapshot = spec.output_dir / "rollout-0"
        snapshot.mkdir()
        body, url = {"path": str(snapshot), "step": 0}, f"/reheatd/v1/jobs/{spec.job_id}/rollout-adapter"
        for headers in ({}, world.admin, world.inference, bearer("none")):
            refused(await client.post(url, json=body, headers=headers), 403, "permission_denied")
            refused(await client.delete(url, headers=headers), 403, "permission_denied")
        for stale in (as_job(spec.job_id, 2), as_job("rl-other"), as_job(spec.job_id, 0)):
            refused(await client.post(url, json=body, headers=stale), 403, "permission_denied")
        forged = JobCredentials(b"another secret").of(spec.job_id, 1)
        refused(await client.post(url, json=body, headers=bearer(forged)), 401, "invalid_api_key")
        refused(await client.post(url, json=body, headers=bearer(forged[:-64])), 401, "invalid_api_key")
        own = as_job(spec.job_id)
        refused(await client.post("/reheatd/v1/jobs/rl-x/rollout-adapter", json=body, headers=own), 403,
                "permission_denied")  # fmt: skip
        for method, path in ADMIN_ROUTES:
            refused(await client.request(method, path, headers=own), 403, "permission_denied")
        assert not world.slots.adapters
        assert (await client.post(url, json=body, headers=own)).json() == {"model": f"job-{spec.job_id}.1-0"}
        assert (await client.delete(url, headers=own)).status_code == 204

        # Its worker is taken for dead. When it wakes, another attempt runs.
        job = world.controller.current_job
        assert job is not None
        job.attempt = 2
        refused(await client.post(url, json=body, headers=own), 403, "permission_denied")
        snapshot.mkdir(exist_ok=True)
        assert (await client.post(url, json=body, headers=as_job(spec.job_id, 2))).status_code == 200
        await world.train(spec)
        await world.until(lambda: world.store.promoted() == 1)
        refused(await client.post(url, json=body, headers=as_job(spec.job_id, 2)), 403, "permission_denied")

    talk(world, story)


def test_a_credential_is_the_same_after_a_restart_and_its_secret_is_the_owners(tmp_path: Path) -> None:
    made = job_credentials(tmp_path).of("rl-1", 2)
    claim = job_credentials(tmp_path).read(made)
    assert claim is not None and (claim.job_id, claim.attempt) == ("rl-1", 2)
    file = tmp_path / "job-credentials.key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_bytes().hex() not in made
    for wrong in ("rh-job-", "rh-job-rl-1.2-", made.replace(".2-", ".02-"), made.replace(".2-", ".1-"), made[:-1]):
        assert job_credentials(tmp_path).read(wrong) is None
    file.write_bytes(b"short")
    with pytest.raises(BadInputError, match="32 bytes"):
        job_credentials(tmp_path)


def inference_world(folder: Path, story: Callable[[World, KeyStore], Coroutine[Any, Any, None]]) -> None:
    """A gateway that asks for keys."""

    async def body(world: World) -> None:
        await world.http.aclose()
        world.http = served_by(world.gateway, world.db, required=True)
        await story(world, KeyStore(world.db))

    in_world(folder, body)


def test_inference_needs_a_key_which_the_engine_does_not_see(tmp_path: Path) -> None:
    async def story(world: World, store: KeyStore) -> None:
        with world.db:
            key = bearer(store.create("ci")[1])
        for path in (CHAT, "/v1/completions", "/tokenize", "/detokenize"):
            refused(await world.http.post(path, json={}), 401, "invalid_api_key")
            assert (await world.http.post(path, json={}, headers=key)).status_code == 200
            assert not {"authorization", "x-api-key"} & set(world.engine.headers)
        refused(await world.http.get("/v1/models"), 401, "invalid_api_key")
        with closing(connect(tmp_path / "db.sqlite3")) as other, other:  # as the command line does
            KeyStore(other).revoke("ci")
        refused(await world.http.post(CHAT, json={}, headers=key), 401, "invalid_api_key")

    inference_world(tmp_path, story)


def test_a_key_asks_only_the_models_that_it_may(tmp_path: Path) -> None:
    async def story(world: World, store: KeyStore) -> None:
        await world.publish(tmp_path)
        with world.db:
            key = bearer(store.create("ci", models=["policy", "policy-v*"])[1])
            everything = bearer(store.create("ops", "admin")[1])
        for model, status in (("policy", 200), ("policy-v1", 200), ("base", 404), ("job-rl-1.1-8", 404)):
            answer = await world.http.post(CHAT, json={"model": model}, headers=key)
            assert answer.status_code == status, answer.text
            shown = await world.http.get(f"/v1/models/{model}", headers=key)
            assert shown.status_code == status
            if status == 404:
                refused(answer, 404, "model_not_found")
                refused(shown, 404, "model_not_found")
        listed = (await world.http.get("/v1/models", headers=key)).json()["data"]
        assert [model["id"] for model in listed] == ["policy", "policy-v0", "policy-v1"]
        listed = (await world.http.get("/v1/models", headers=everything)).json()["data"]
        assert "base" in [model["id"] for model in listed]
        await world.slots.load("job-rl-1.1-8", world.store.path(1))
        refused(await world.http.post(CHAT, json={"model": "job-rl-1.1-8"}, headers=everything), 404,
                "model_not_found")  # fmt: skip

    inference_world(tmp_path, story)


def test_a_job_samples_versions_and_its_own_policy_and_counts_as_no_client(tmp_path: Path) -> None:
    async def story(world: World, store: KeyStore) -> None:
        for name in ("job-rl-1.1-0", "job-rl-1.2-0", "job-rl-2.1-0"):
            await world.slots.load(name, await _folder(world))
        seen = []
        for model in ("base", "policy", "policy-v1", "job-rl-1.1-0"):
            assert (await world.http.post(CHAT, json={"model": model}, headers=as_job("rl-1"))).status_code == 200
            xargs = world.engine.body["vllm_xargs"]
            seen.append((xargs["reheatd_version"], xargs["reheatd_source"]))
        assert seen == [(name, "rollout") for name in ("policy-v0", "policy-v0", "policy-v1", "job-rl-1.1")]
        for other in ("job-rl-1.2-0", "job-rl-2.1-0"):
            refused(await world.http.post(CHAT, json={"model": other}, headers=as_job("rl-1")), 404, "model_not_found")

    async def _folder(world: World) -> Path:
        return world.store.path(await world.publish(tmp_path))

    inference_world(tmp_path, story)


def test_an_attempt_that_is_over_does_not_sample(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        await world.http.aclose()
        world.http = served_by(
            world.gateway, world.db, is_current=lambda job_id, attempt: (job_id, attempt) == ("a", 2)
        )
        refused(await world.http.post(CHAT, json={}, headers=as_job("a", 1)), 403, "permission_denied")
        assert (await world.http.post(CHAT, json={}, headers=as_job("a", 2))).status_code == 200

    in_world(tmp_path, body)


def test_unknown_paths_are_not_found_for_those_who_may_know(tmp_path: Path) -> None:
    world = Admin(tmp_path)

    async def story(client: httpx.AsyncClient) -> None:
        refused(await client.get("/nothing", headers=world.admin), 404, "not_found")

    talk(world, story)
