"""Actions on the pages: each says what it will do, does it at a button, and says in place why it cannot."""

from pathlib import Path

import pytest

from reheatd.errors import DeliveryError
from reheatd.jobs.contracts import JobStatus, ReheatRequest
from tests.unit.control_support import finish_one
from tests.unit.dashboard_support import Client, DashboardWorld, Page, browse, follow, get, post


def test_promoting_and_rolling_back(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        await finish_one(world)
        page = await get(client, "/ui/actions/rollback")
        assert page.one("h1").text == "Roll back to policy-v0"
        assert "`policy` will mean policy-v0 again instead of policy-v1." in page.main.text
        assert world.store.promoted() == 1, "looking changes nothing"
        page = await follow(client, await post(client, "/ui/actions/rollback"))
        assert world.store.promoted() == 0
        assert page.one(class_="notice").text.startswith("policy-v0 is served again, after 0.5 s")
        assert not (await get(client, "/")).all(class_="notice"), "a notice shows once"
        page = await get(client, "/ui/actions/promote?version=1")
        assert page.main.one("button").text == "Promote policy-v1"
        answer = await post(client, "/ui/actions/promote?version=1")
        assert (answer.status_code, answer.headers["location"]) == (303, "/ui/versions")
        assert world.store.promoted() == 1
        assert [entry.reason for entry in world.ledger.entries(2)] == [
            "policy-v0 rolled back by request",
            "policy-v1 promoted by request",
        ]

    browse(DashboardWorld(tmp_path), story)


def test_a_version_that_failed_a_gate_says_so_before_it_is_promoted(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        job = world.controller.submit(ReheatRequest(tau=1.5))
        world.swaps.failures.append(DeliveryError("the engine's answers are not <the> trainer's"))
        await world.train(await world.until_submitted())
        await world.until_status(job.job_id, JobStatus.REJECTED)
        page = await get(client, "/ui/actions/promote?version=1")
        assert "It did not pass the gate delivery" in page.main.text
        world.swaps.failures.append(DeliveryError("the engine's answers are not <the> trainer's"))
        answer = await post(client, "/ui/actions/promote?version=1")
        assert answer.status_code == 502
        page = Page(answer)
        assert page.problem == "the engine's answers are not <the> trainer's"
        assert page.one("h1").text == "Promote policy-v1" and page.main.all("button")
        assert world.store.promoted() == 0

    browse(DashboardWorld(tmp_path), story)


def test_deleting_a_version(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        await finish_one(world)
        answer = await post(client, "/ui/actions/delete?version=1")
        assert answer.status_code == 409 and "promote another version first" in Page(answer).problem
        await world.publish("other")
        page = await get(client, "/ui/actions/delete?version=policy-v2")
        assert "are deleted for good" in page.main.text and page.main.one("button", class_="danger")
        answer = await post(client, "/ui/actions/delete?version=policy-v2")
        assert answer.headers["location"] == "/ui/versions" and world.store.versions() == [0, 1]
        assert world.ledger.entries(1)[0].reason == "policy-v2 deleted"

    browse(DashboardWorld(tmp_path), story)


def test_submitting_a_job_with_a_form(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        page = await get(client, "/ui/actions/reheat")
        assert [field.attributes["name"] for field in page.main.all("input")] == ["tau", "target_entropy", "steps"]
        answer = await post(client, "/ui/actions/reheat", tau="1.5", target_entropy="", steps="7")
        (job,) = world.ledger.jobs.all()
        assert answer.headers["location"] == f"/ui/jobs/{job.job_id}"
        assert isinstance(job.request, ReheatRequest) and job.request.given() == {"tau": 1.5, "steps": 7}
        assert f"{job.job_id} submitted" in [entry.reason for entry in world.ledger.entries(5)]

    browse(DashboardWorld(tmp_path), story)


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"tau": "hot"}, "tau = 'hot' is no number"),
        ({"tau": "1"}, "changes nothing"),
        ({"tau": "nan"}, "tau"),
        ({"tau": "inf"}, "tau"),
        ({"steps": "0"}, "steps = 0"),
        ({"steps": "2.5"}, "steps"),
        ({"steps": "9" * 5000}, "steps"),
        ({"target_entropy": "-1"}, "target_entropy"),
        ({"kind": "rl"}, "kind"),
    ],
)
def test_a_form_that_cannot_be_used_comes_back_with_what_was_typed(
    tmp_path: Path, form: dict[str, str], says: str
) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        answer = await post(client, "/ui/actions/reheat", **form)
        assert answer.status_code == 400, answer.text
        page = Page(answer)
        assert says in page.problem
        for name, value in form.items():
            assert all(field.attributes["value"] == value for field in page.main.all("input", name=name))
        assert not world.jobs()

    browse(DashboardWorld(tmp_path), story)


def test_approving_and_cancelling_a_job(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        world.see("collapsed", 0.7)
        await world.until(world.jobs)
        job_id = world.ledger.jobs.all()[0].job_id
        page = await get(client, f"/ui/actions/approve?job={job_id}")
        assert f"{job_id} (reheat, collapse) is queued" in page.main.text
        answer = await post(client, f"/ui/actions/approve?job={job_id}")
        assert answer.headers["location"] == f"/ui/jobs/{job_id}"
        await world.until_submitted()
        page = await get(client, f"/ui/actions/cancel?job={job_id}")
        assert "what it has trained is lost" in page.main.text
        await post(client, f"/ui/actions/cancel?job={job_id}")
        await world.until(lambda: world.dispatcher.cancelled)
        answer = await post(client, f"/ui/actions/approve?job={job_id}")
        assert answer.status_code == 409 and Page(answer).problem

    browse(DashboardWorld(tmp_path, control={"mode": "approve"}), story)


def test_measuring_and_resuming(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        await follow(client, await post(client, "/ui/actions/measure"))
        assert world.shown.triggered == 1
        page = await follow(client, await post(client, "/ui/actions/resume"))
        assert page.one(class_="notice").text == "Resumed: nothing was paused."

    browse(DashboardWorld(tmp_path), story)


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/ui/actions/promote?version=7", 404, "version 7 does not exist"),
        ("/ui/actions/promote?version=<b>", 400, "'<b>' is not a version"),
        ("/ui/actions/promote", 400, "is not a version"),
        ("/ui/actions/rollback", 409, "no version to roll back to"),
        ("/ui/actions/delete?version=-1", 400, "is not a version"),
        ("/ui/actions/cancel", 400, "job is missing"),
        ("/ui/actions/cancel?job=rl-x", 404, "rl-x"),
        ("/ui/actions/dance", 404, "/ui/actions/dance"),
    ],
)
def test_what_an_action_cannot_be_about_is_said_on_a_page(tmp_path: Path, path: str, status: int, says: str) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        assert says in (await get(client, path, status)).problem
        assert says in Page(await post(client, path)).problem

    browse(DashboardWorld(tmp_path), story)


def test_a_script_gets_errors_as_json(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        answer = await client.get("/ui/actions/promote?version=7", headers={"accept": "application/json"})
        assert answer.status_code == 404 and answer.json()["error"]["param"] == "version"

    browse(DashboardWorld(tmp_path), story)


def test_a_form_that_is_none_is_refused(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        for content, says in (
            (b"a=%FF", "cannot be read"),
            ("ä".encode(), "cannot be read"),
            (b"a" * 300_000, "bytes"),
        ):
            answer = await client.post("/ui/actions/measure", content=content)
            assert answer.status_code == 400 and says in Page(answer).problem
        assert world.shown.triggered == 0

    browse(DashboardWorld(tmp_path), story)


def test_a_page_that_has_a_bug_does_not_show_its_insides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        monkeypatch.setattr(world.controller, "job", lambda job_id: 1 / 0)
        answer = await client.get("/ui/actions/cancel?job=rl-1")
        assert answer.status_code == 500 and "division" not in answer.text

    browse(DashboardWorld(tmp_path), story)
