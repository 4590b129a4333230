"""The page Now: what it says of the policy, and what the daemon will do next."""

import time
from pathlib import Path

import pytest

from reheatd.dashboard.now import time_left_s
from reheatd.entropy.estimators import TailMoments
from reheatd.jobs.contracts import Job, JobEvent, JobStatus, ReheatRequest
from reheatd.process.broker import BrokerError
from tests.unit.control_figures import window
from tests.unit.dashboard_support import Client, DashboardWorld, browse, get, parse


def test_the_page_shows_every_part(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        world.census = BrokerError("the broker <is> away")
        world.shown.problem = "the model has no chat template"
        page = await get(client, "/")
        assert "policy-v0: Entropy has not been measured yet." in page.main.text
        assert "Entropy cannot be measured, so no collapse is noticed: the model has no chat template" in page.main.text
        assert "the broker <is> away" in page.main.text and "engine-1 serves, 0 in flight" in page.main.text
        assert "since the start 7, 1 failed" in page.main.text
        assert "None is running" in page.main.text and "Nothing has happened yet." in page.main.text
        assert page.title == f"Now · {world.settings.policy.model} · reheatd"
        assert page.one("a", aria_current="page").text == "Now"
        assert "Roll back" not in page.main.text
        world.see("collapsed", 0.7)
        world.shown.verdict = "collapsed"
        world.series.append(window(0, "collapsed", 0.7), TailMoments())
        spec = await world.until_submitted()
        progress = {"phase": "training", "step": 3, "steps": 12, "done": 4, "of": 8}
        await world.dispatcher.report(
            spec.job_id, JobEvent(kind="started"), JobEvent.model_validate({"kind": "progress", **progress})
        )
        await world.until(lambda: world.controller.job(spec.job_id).step == 3)
        page = await get(client, "/")
        assert "policy-v0: Entropy fell below 1" in page.main.text
        assert "step 3 of 12" in page.main.text and "training 4 of 8" in page.main.text
        assert page.main.links[spec.job_id] == f"/ui/jobs/{spec.job_id}"
        assert f"gate the version of {spec.job_id}" in page.main.text
        assert page.main.one("meter").attributes["value"] == "0.7"
        await world.train(spec)
        await world.until_status(spec.job_id, JobStatus.SUCCEEDED)
        page = await get(client, "/")
        assert page.main.links["Roll back to policy-v0"] == "/ui/actions/rollback"
        assert page.main.links["policy-v1"] == "/ui/versions/1"

    browse(DashboardWorld(tmp_path), story)


def test_what_comes_next_has_its_time(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        world.series.append(window(0, "ok", 1.9), TailMoments())
        world.shown.verdict = "ok"
        world.shown.next_at = time.time() + 90.4
        page = await get(client, "/")
        assert "measure the entropy of policy-v0 in 1 min 30 s" in page.main.text
        first, second = (world.controller.submit(ReheatRequest(tau=1.5)) for _ in range(2))
        await world.until_submitted()
        page = await get(client, "/")
        assert f"gate the version of {first.job_id}" in page.main.text and f"start {second.job_id}" in page.main.text

    browse(DashboardWorld(tmp_path), story)


def test_time_left_goes_by_the_pace_so_far() -> None:
    job = Job(
        job_id="rl-1",
        kind="rl",
        status=JobStatus.RUNNING,
        trigger="manual",
        created_at=0.0,
        started_at=time.time() - 30,
        parent_version=0,
        request=ReheatRequest(),
        step=3,
        steps=12,
    )
    assert time_left_s(job) == pytest.approx(90, abs=1)
    assert time_left_s(job.model_copy(update={"step": 0})) is None


def test_the_curve_has_the_last_day_and_the_thresholds(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        empty = (await client.get("/ui/now.json")).json()
        assert empty["x"] == [] and empty["lines"][0]["values"] == []
        for hours, mean in ((30, 0.9), (2, 1.9), (1, 0.7)):
            old = window(0, "ok", mean).model_copy(update={"time": time.time() - 3600 * hours})
            world.series.append(old, TailMoments())
        chart = (await client.get("/ui/now.json")).json()
        assert chart["lines"][0]["values"] == [1.9, 0.7] and len(chart["x"]) == 2
        assert [level["label"] for level in chart["levels"]] == ["baseline", "collapsed below", "warning below"]

    browse(DashboardWorld(tmp_path), story)


def test_text_from_elsewhere_stays_text(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        world.ledger.requested("<script>alert(1)</script> deleted")
        page = await get(client, "/")
        assert "<script>alert(1)</script> deleted" in page.main.text and not page.main.all("script")

    browse(DashboardWorld(tmp_path), story)


def test_the_open_page_is_kept_up_to_date(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        page = await get(client, "/")
        (box,) = [element for element in page.main.walk() if "sse-connect" in element.attributes]
        assert box.attributes["sse-connect"] == "/ui/live/now"
        reading = client.get("/ui/live/now")
        world.dashboard.close()
        sent = await reading
        assert sent.headers["content-type"].startswith("text/event-stream")
        fragment = "".join(line.removeprefix("data: ") + "\n" for line in sent.text.splitlines())
        assert not fragment.strip() or parse(fragment).all("section")

    browse(DashboardWorld(tmp_path), story)
