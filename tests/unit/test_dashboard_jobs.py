"""The pages of jobs: the list with its filters, and each job with progress, gates, curves and specification."""

from pathlib import Path
from typing import Any

import pytest

from reheatd.dashboard.charts import Chart
from reheatd.dashboard.job_curves import POINTS, ROWS, JobCurves, chart_of, figures_of
from reheatd.jobs.contracts import JobEvent, JobStatus, ReheatRequest, RLRequest
from reheatd.jobs.curves import CurvePoint, CurveWriter
from tests.unit.control_figures import accuracy
from tests.unit.control_support import finish_one
from tests.unit.dashboard_support import Client, DashboardWorld, Page, browse, first_event, get


async def running(world: DashboardWorld, request: Any) -> Any:
    """A job whose worker has begun; its specification."""
    count = len(world.dispatcher.submitted)
    world.controller.submit(request)
    spec = await world.until_submitted(count + 1)
    report = {"phase": "training", "step": 3, "steps": 12, "done": 4, "of": 8, "metrics": {"loss": 0.25}}
    await world.dispatcher.report(
        spec.job_id, JobEvent(kind="started"), JobEvent.model_validate({"kind": "progress", **report})
    )
    await world.until(lambda: world.controller.job(spec.job_id).step == 3)
    return spec


def rows_of(page: Page) -> list[str]:
    """The jobs in the list, in order."""
    return [row.attributes["id"] for row in page.main.all("tr") if "id" in row.attributes]


def test_the_list_shows_every_job_the_newest_first_and_filters(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        assert "There is no such job." in (await get(client, "/ui/jobs")).main.text
        done = await finish_one(world)
        spec = await running(world, RLRequest(steps=12))
        page = await get(client, "/ui/jobs")
        assert rows_of(page) == [spec.job_id, done]
        assert page.main.links[done] == f"/ui/jobs/{done}" and page.main.links["policy-v1"] == "/ui/versions/1"
        assert "step 3 of 12" in page.main.text and "training 4 of 8" in page.main.text
        assert page.main.one("progress").attributes["value"] == "3"
        assert rows_of(await get(client, "/ui/jobs?kind=rl")) == [spec.job_id]
        page = await get(client, "/ui/jobs?kind=&status=succeeded")
        assert rows_of(page) == [done]
        assert page.main.one("option", selected="").attributes["value"] == "succeeded"
        assert page.main.one(sse_connect="/ui/live/jobs?kind=&status=succeeded")
        page = await get(client, "/ui/jobs?status=lost", 400)
        assert page.problem.startswith("status = 'lost' is none of awaiting_approval, queued")
        assert (await client.get("/ui/live/jobs?kind=dance")).status_code == 400

    browse(DashboardWorld(tmp_path), story)


def test_a_long_list_comes_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reheatd.dashboard.jobs.JOBS", 2)

    async def story(client: Client, world: DashboardWorld) -> None:
        ids = [world.ledger.create(RLRequest(), "manual", JobStatus.AWAITING_APPROVAL, 0).job.job_id for _ in range(5)][
            ::-1
        ]
        page = await get(client, "/ui/jobs")
        assert rows_of(page) == ids[:2] and "Newer" not in page.main.links
        page = await get(client, page.main.links["Older"])
        assert rows_of(page) == ids[2:4] and not page.main.all(hx_ext="sse, morph"), "only the newest page is live"
        page = await get(client, page.main.links["Older"])
        assert rows_of(page) == ids[4:] and "Older" not in page.main.links
        page = await get(client, page.main.links["Newer"])
        assert rows_of(page) == ids[2:4]
        assert rows_of(await get(client, page.main.links["Newer"])) == ids[:2]

    browse(DashboardWorld(tmp_path, control={"mode": "observe"}), story)


def test_a_running_job_shows_its_progress_and_can_be_cancelled(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        spec = await running(world, ReheatRequest(tau=1.5, steps=12))
        page = await get(client, f"/ui/jobs/{spec.job_id}")
        assert page.one("h1").text == spec.job_id and "step 3 of 12, about" in page.main.text
        assert page.main.links["Cancel"] == f"/ui/actions/cancel?job={spec.job_id}"
        assert "Approve" not in page.main.links and "loss 0.25" in page.main.text
        assert page.main.one(sse_connect=f"/ui/live/jobs/{spec.job_id}")
        assert "It has reported nothing yet; its curves show here as they come." in page.main.text
        source = page.main.one(class_="chart", data_live="5").attributes["data-src"]
        assert (await client.get(source)).json()["x"] == []
        CurveWriter(spec.curves_file).add(1, {"loss": 0.25})
        assert (await client.get(source)).json()["lines"] == [
            {"label": "loss", "values": [0.25], "low": None, "high": None}
        ]
        options = {row.one("th").text: row for row in page.main.all("tr") if row.all("th", scope="row")}
        assert "1.5 asked for" in options["tau"].text and "asked for" not in options["teacher"].text
        assert "live" in options["teacher"].text and "the student as it is at that step" in options["teacher"].text
        assert str(spec.output_dir) in options["output_dir"].text and "numeric" not in options["model_path"].text

    browse(DashboardWorld(tmp_path), story)


def test_a_job_that_is_over_shows_gates_and_reasons(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        job = world.controller.submit(ReheatRequest(tau=1.5))
        await world.train(await world.until_submitted(), accuracy_after=accuracy(2))
        await world.until_status(job.job_id, JobStatus.REJECTED)
        page = await get(client, f"/ui/jobs/{job.job_id}")
        gates = {row.one("th").text: row.text for row in page.main.all("tr") if row.all(class_="badge")}
        assert "failed" in gates["accuracy"] and "passed" in gates["entropy"]
        assert not {"Cancel", "Approve"} & set(page.main.links)
        assert page.main.links["Its entries in the journal"] == f"/ui/journal?job={job.job_id}"
        failing = world.controller.submit(ReheatRequest(tau=1.5))
        spec = await world.until_submitted(2)
        await world.dispatcher.report(spec.job_id, JobEvent(kind="failed", error="out of <memory>"))
        await world.until_status(failing.job_id, JobStatus.FAILED)
        assert (await get(client, f"/ui/jobs/{failing.job_id}")).problem == "out of <memory>"

    browse(DashboardWorld(tmp_path), story)


def test_a_job_that_waits_can_be_approved(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        world.see("collapsed", 0.7)
        await world.until(lambda: world.controller.waiting())
        (job,) = world.controller.waiting()
        page = await get(client, f"/ui/jobs/{job.job_id}")
        assert page.main.links["Approve"] == f"/ui/actions/approve?job={job.job_id}"
        assert "That is decided when it starts." in page.main.text

    browse(DashboardWorld(tmp_path, control={"mode": "approve"}), story)


def test_curves_of_several_metrics_and_jobs(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        first = await running(world, RLRequest(steps=12))
        for step in (1, 2):
            CurveWriter(first.curves_file).add(step, {"reward": step / 4, "entropy": 1.5})
        await world.train(first)
        await world.until_status(first.job_id, JobStatus.SUCCEEDED)
        second = await running(world, ReheatRequest(tau=1.5, target_entropy=1.25))
        CurveWriter(second.curves_file).add(2, {"entropy": 0.75, "loss": 0.1})
        url = f"/ui/jobs/{second.job_id}"

        page = await get(client, url)
        assert [box.attributes["value"] for box in page.main.all("input", name="metric")] == ["entropy", "loss"]
        assert page.main.one("input", name="metric", checked="").attributes["value"] == "entropy"
        assert page.main.one("input", name="job").attributes["value"] == first.job_id
        chart = page.main.one(class_="chart")
        assert chart.attributes["data-src"] == f"{url}/curves.json" and chart.attributes["data-live"] == "5"
        table = page.main.one(class_="scroll", aria_label="The curve as a table")
        assert table.text == "step entropy 2 0.75"

        both = f"{url}?metric=entropy&metric=loss&job={first.job_id}"
        page = await get(client, both)
        source = page.main.one(class_="chart").attributes["data-src"]
        chart = Chart.model_validate((await client.get(source)).json())
        assert (chart.x, chart.is_time, chart.unit) == ([1, 2], False, "")
        assert {line.label: line.values for line in chart.lines} == {
            f"{second.job_id} entropy": [None, 0.75],
            f"{second.job_id} loss": [None, 0.1],
            f"{first.job_id} entropy": [1.5, 1.5],
            f"{first.job_id} loss": [None, None],
        }
        assert not chart.levels, "a target in nats is none of a loss"
        chart = Chart.model_validate((await client.get(f"{url}/curves.json?start=2&end=9")).json())
        assert chart.x == [2] and [(level.kind, level.value) for level in chart.levels] == [("target", 1.25)]

        page = await get(client, f"{url}?metric=speed", 400)
        assert page.problem == f"metric = 'speed' is not reported by {second.job_id}; it has entropy, loss"
        assert "job rl-gone does not exist" in (await get(client, f"{url}?job=rl-gone", 404)).problem
        too_many = "&".join(f"metric=m{number}" for number in range(9))
        assert "comes 9 times" in (await get(client, f"{url}?{too_many}", 400)).problem

    browse(DashboardWorld(tmp_path), story)


@pytest.mark.parametrize("path", ["", "/rollouts"])
def test_a_job_that_does_not_exist_is_named(tmp_path: Path, path: str) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        page = await get(client, f"/ui/jobs/rl-<gone>{path}", 404)
        assert "job rl-<gone> does not exist" in page.problem
        assert (await client.get("/ui/live/jobs/rl-gone")).status_code == 404

    browse(DashboardWorld(tmp_path), story)


def test_a_long_curve_keeps_its_extremes_and_the_table_its_ends() -> None:
    points = [CurvePoint(step=step, metrics={"loss": step % 7, "reward": 1.0}) for step in range(1, 5001)]
    points[1234].metrics["loss"] = -50.0
    points[4321].metrics["loss"] = 50.0
    chart = chart_of([JobCurves("rl-1", points)], ["loss", "reward"])
    losses = chart.lines[0].values
    assert len(chart.x) <= POINTS + 2 and {-50.0, 50.0} <= {*losses}
    assert (chart.x[0], chart.x[-1]) == (1, 5000) and chart.x == sorted(chart.x)
    figures = figures_of(chart)
    assert len(figures.rows) == ROWS and figures.left_out == len(chart.x) - ROWS
    assert (figures.rows[0][0], figures.rows[-1][0]) == (1, 5000)
    assert figures_of(chart_of([JobCurves("rl-1", [])], ["loss"])).rows == []


def test_the_live_parts_are_the_parts_of_the_pages(tmp_path: Path) -> None:
    async def story(client: Client, world: DashboardWorld) -> None:
        spec = await running(world, RLRequest(steps=12))
        for path in (f"/ui/live/jobs/{spec.job_id}", "/ui/live/jobs?kind=rl"):
            assert "step 3 of 12" in (await first_event(client, world, path)).text

    browse(DashboardWorld(tmp_path), story)
