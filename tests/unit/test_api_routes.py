"""The admin API over HTTP, on a real controller with stand-ins behind it."""

import json
from pathlib import Path
from typing import Any

import pytest

from reheatd.api.schemas import (
    AdapterList,
    CurvesView,
    EntropyView,
    JobList,
    JournalView,
    PromotionView,
    RolloutsView,
    StatusView,
    VersionView,
)
from reheatd.entropy.windows import LiveWindow, Window
from reheatd.jobs.contracts import Job, JobEvent, JobStatus
from reheatd.jobs.curves import CurveWriter
from reheatd.jobs.dead_letters import DeadLetter
from reheatd.jobs.rollouts import RolloutRecorder
from reheatd.process.broker import BrokerError
from tests.unit.api_support import ApiWorld, Client, error_of, talk
from tests.unit.control_figures import BASELINE, entropy
from tests.unit.report_support import job_report, rollout_row


def test_health_says_what_the_daemon_waits_for(tmp_path: Path) -> None:
    async def story(client: Client, world: ApiWorld) -> None:
        assert (await client.get("/health")).status_code == 200
        world.ready = "starting"
        answer = await client.get("/health")
        assert (answer.status_code, answer.json()) == (503, {"status": "starting"})

    talk(ApiWorld(tmp_path), story)


def test_the_list_of_jobs_shows_what_no_worker_could_handle(tmp_path: Path) -> None:
    async def story(client: Client, world: ApiWorld) -> None:
        letter = DeadLetter(worker="reheatd-1@host", message_id="rl-1.1", task="reheatd.lost", reason="no such task")
        world.dead_letters.append(letter)
        listed = JobList.model_validate((await client.get("/reheatd/v1/jobs")).json())
        assert listed.dead_letters == [letter]
        world.census = BrokerError("the broker is away")
        answer = await client.get("/reheatd/v1/jobs")
        assert answer.status_code == 200 and answer.json()["dead_letters"] is None

    talk(ApiWorld(tmp_path), story)


def test_status_reports_every_part(tmp_path: Path) -> None:
    async def story(client: Client, world: ApiWorld) -> None:
        report = StatusView.model_validate((await client.get("/reheatd/v1/status")).json())
        assert (report.state, report.mode, report.promoted.name) == ("serving", "auto", "policy-v0")
        assert report.entropy is None and report.ratio is None and report.job is None
        assert report.measuring is not None and (report.measuring.done, report.measuring.of) == (12, 40)
        assert [(engine.name, engine.ok, engine.in_flight) for engine in report.engines] == [
            ("engine-1", True, 0),
            ("engine-2", True, 0),
        ]
        world.pool.replicas[1].eject()
        report = StatusView.model_validate((await client.get("/reheatd/v1/status")).json())
        assert [engine.ok for engine in report.engines] == [True, False]
        assert report.problem == "the model has no chat template"
        world.pool.replicas[1].problem = "the engine serves another daemon"
        report = StatusView.model_validate((await client.get("/reheatd/v1/status")).json())
        assert report.engines[1].detail == "the engine serves another daemon"
        assert not report.broker.ok and "broker" in report.broker.detail
        assert report.workers.connected == 0 and "reheatd worker" in report.workers.detail
        assert (report.requests.total, report.requests.failed) == (7, 1)
        assert 5 <= report.uptime_s < 60

        await client.post("/reheatd/v1/entropy/measure")
        first = (await client.post("/reheatd/v1/jobs", json={"kind": "reheat", "tau": 1.5})).json()
        await world.until_submitted()
        await client.post("/reheatd/v1/jobs", json={"kind": "rl"})
        world.census = BrokerError("the broker is away")
        report = StatusView.model_validate((await client.get("/reheatd/v1/status")).json())
        assert report.state == "reheating" and report.job is not None and report.job.job_id == first["job_id"]
        assert report.queued == 1 and report.waiting[0].kind == "rl"
        assert report.entropy == entropy(1.9) and report.ratio == pytest.approx(0.95)
        assert report.workers.connected is None and report.workers.detail == "the broker is away"

    talk(ApiWorld(tmp_path), story)


def test_what_is_paused_is_shown_until_it_is_resumed(tmp_path: Path) -> None:
    async def story(client: Client, world: ApiWorld) -> None:
        world.see("collapsed", 0.7)
        for number in (1, 2):
            spec = await world.until_submitted(number)
            await world.dispatcher.report(spec.job_id, JobEvent(kind="failed", error="out of memory"))
            await world.until_status(spec.job_id, JobStatus.FAILED)
        groups = {"groups": 4.0, "groups_varied": 1.0, "groups_all_fail": 3.0, "groups_all_pass": 0.0, "reward": 0.1}
        world.learning.add("rl-1", 0, 1, groups)
        report = StatusView.model_validate((await client.get("/reheatd/v1/status")).json())
        (pause,) = report.paused
        assert pause.what == "reheats" and "out of memory" in pause.why
        assert report.learning is not None and (report.learning.varied, report.learning.groups) == (1, 4)
        resumed = await client.post("/reheatd/v1/control/resume")
        assert resumed.json() == {"resumed": [pause.model_dump()]}
        await world.until_submitted(3)
        assert not StatusView.model_validate((await client.get("/reheatd/v1/status")).json()).paused
        assert (await client.post("/reheatd/v1/control/resume")).json() == {"resumed": []}
        shown = EntropyView.model_validate((await client.get("/reheatd/v1/entropy")).json())
        assert shown.learning == report.learning

    talk(ApiWorld(tmp_path, control={"cooldown_s": 0}), story)


def test_a_job_from_request_to_version(tmp_path: Path) -> None:
    async def story(client: Client, world: ApiWorld) -> None:
        answer = await client.post("/reheatd/v1/jobs", json={"kind": "reheat", "tau": 1.5, "steps": 3})
        assert answer.status_code == 202
        job = Job.model_validate(answer.json())
        spec = await world.until_submitted()
        (spec.output_dir / "rollout-0").mkdir()
        url = f"/reheatd/v1/jobs/{job.job_id}"
        loaded = await client.post(
            f"{url}/rollout-adapter", json={"path": str(spec.output_dir / "rollout-0"), "step": 0}
        )
        assert loaded.json() == {"model": f"job-{job.job_id}.1-0"}
        assert (await client.delete(f"{url}/rollout-adapter")).status_code == 204
        await world.train(spec)
        await world.until_status(job.job_id, JobStatus.SUCCEEDED)
        shown = Job.model_validate((await client.get(url)).json())
        assert shown.version == 1 and shown.gates[-1].name == "delivery"
        jobs = JobList.model_validate((await client.get("/reheatd/v1/jobs")).json()).jobs
        assert [listed.job_id for listed in jobs] == [job.job_id]

        adapters = AdapterList.model_validate((await client.get("/reheatd/v1/adapters")).json())
        assert adapters.promoted == 1 and [info.state for info in adapters.adapters] == ["retired", "promoted"]
        shown = VersionView.model_validate((await client.get("/reheatd/v1/adapters/policy-v1")).json())
        assert shown.lineage is not None and shown.lineage.job_id == job.job_id and shown.report is None
        report, folder = job_report(), world.store.path(1) / "report"
        folder.mkdir()
        (folder / "report.json").write_text(report.model_dump_json())
        shown = VersionView.model_validate((await client.get("/reheatd/v1/adapters/policy-v1")).json())
        assert (shown.report, shown.report_dir) == (report, folder)
        (folder / "report.json").write_text('{"job_id": "of an earlier version"}')
        shown = VersionView.model_validate((await client.get("/reheatd/v1/adapters/policy-v1")).json())
        assert (shown.report, shown.report_dir) == (None, folder)
        back = PromotionView.model_validate((await client.post("/reheatd/v1/adapters/rollback")).json())
        assert (back.from_version, back.version) == (1, 0)
        again = PromotionView.model_validate((await client.post("/reheatd/v1/adapters/1/promote")).json())
        assert again.name == "policy-v1"
        entries = JournalView.model_validate((await client.get("/reheatd/v1/journal?last=2")).json()).entries
        assert [(entry.event, entry.version) for entry in entries] == [("promoted", 0), ("promoted", 1)]

    talk(ApiWorld(tmp_path), story)


def test_curves_and_rollouts_can_be_read_while_a_job_runs_and_after_it(tmp_path: Path) -> None:
    async def story(client: Client, world: ApiWorld) -> None:
        await client.post("/reheatd/v1/jobs", json={"kind": "rl", "steps": 3})
        spec = await world.until_submitted()
        waiting = (await client.post("/reheatd/v1/jobs", json={"kind": "rl"})).json()["job_id"]
        for job_id in (spec.job_id, waiting):
            url = f"/reheatd/v1/jobs/{job_id}"
            assert CurvesView.model_validate((await client.get(f"{url}/curves")).json()).points == []
            assert RolloutsView.model_validate((await client.get(f"{url}/rollouts")).json()).rollouts == []
        curves = CurveWriter(spec.curves_file)
        recorder = RolloutRecorder(spec.rollouts_file, steps=3, keep=100)
        for step in range(2):
            recorder.record([rollout_row(step, reward) for reward in (0.0, 1.0)])
            curves.add(step + 1, {"reward": 0.5})
        url = f"/reheatd/v1/jobs/{spec.job_id}"
        shown = CurvesView.model_validate((await client.get(f"{url}/curves")).json())
        assert [(point.step, point.metrics) for point in shown.points] == [(1, {"reward": 0.5}), (2, {"reward": 0.5})]
        read = RolloutsView.model_validate((await client.get(f"{url}/rollouts?last=3")).json())
        assert (read.total, [(row.step, row.reward) for row in read.rollouts]) == (4, [(0, 1), (1, 0), (1, 1)])
        read = RolloutsView.model_validate((await client.get(f"{url}/rollouts?step=0&last=1")).json())
        assert (read.total, read.rollouts) == (2, [rollout_row(0, 1.0)])
        await world.train(spec)
        await world.until_status(spec.job_id, JobStatus.SUCCEEDED)
        assert len((await client.get(f"{url}/rollouts")).json()["rollouts"]) == 4

    talk(ApiWorld(tmp_path), story)


def test_the_series_has_its_baseline_and_threshold(tmp_path: Path) -> None:
    async def story(client: Client, world: ApiWorld) -> None:
        for _ in range(3):
            taken = await client.post("/reheatd/v1/entropy/measure")
            assert Window.model_validate(taken.json()).verdict == "ok"
        sampled = LiveWindow(
            version="rl-1", source="rollout", measured_by="monte_carlo", estimate=entropy(0.3), by_position=[]
        )
        world.live.append(sampled)
        report = EntropyView.model_validate((await client.get("/reheatd/v1/entropy?last=2")).json())
        assert len(report.windows) == 2 and report.threshold == pytest.approx(0.5 * BASELINE)
        assert report.max_tokens == 64 and report.sources == [sampled]

    talk(ApiWorld(tmp_path), story)


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"kind": "reheat", "tau": 0}, "tau", "above 0"),
        ({"kind": "reheat", "tau": 1}, "tau", "changes nothing"),
        ({"kind": "reheat", "tau": "hot"}, "tau", "hot"),
        ({"kind": "reheat", "temprature": 2}, "temprature", "temprature"),
        ({"kind": "dance"}, "kind", "dance"),
        ({}, "kind", "required"),
        ({"kind": "rl", "steps": 0}, "steps", "steps = 0"),
        ({"kind": "rl", "tau": 1.5}, "tau", "no meaning"),
        ([], "body", "body"),
    ],
)
def test_a_bad_request_names_its_field(tmp_path: Path, body: Any, param: str, says: str) -> None:
    async def story(client: Client, world: ApiWorld) -> None:
        answer = await client.post("/reheatd/v1/jobs", json=body)
        error = error_of(answer)
        assert (answer.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error")
        assert says in error["message"] and "\n" not in error["message"]
        assert not world.jobs()

    talk(ApiWorld(tmp_path), story)


@pytest.mark.parametrize("raw", [b"", b"{", b'{"kind": "reheat", "tau": 1e999}', b'{"kind": "reheat", "tau": NaN}'])
def test_a_body_that_is_no_usable_json_is_refused(tmp_path: Path, raw: bytes) -> None:
    async def story(client: Client, world: ApiWorld) -> None:
        answer = await client.post("/reheatd/v1/jobs", content=raw)
        assert answer.status_code == 400
        error_of(answer)

    talk(ApiWorld(tmp_path), story)


@pytest.mark.parametrize(
    ("method", "path", "status", "param"),
    [
        ("GET", "/reheatd/v1/jobs/reheat-x", 404, "job_id"),
        ("POST", "/reheatd/v1/jobs/reheat-x/cancel", 404, "job_id"),
        ("GET", "/reheatd/v1/jobs/reheat-x/curves", 404, "job_id"),
        ("GET", "/reheatd/v1/jobs/reheat-x/rollouts", 404, "job_id"),
        ("GET", "/reheatd/v1/jobs/reheat-x/rollouts?last=0", 400, "last"),
        ("GET", "/reheatd/v1/jobs/reheat-x/rollouts?step=-1", 400, "step"),
        ("GET", "/reheatd/v1/adapters/7", 404, "version"),
        ("POST", "/reheatd/v1/adapters/7/promote", 404, "version"),
        ("GET", "/reheatd/v1/adapters/seven", 400, "version"),
        ("GET", "/reheatd/v1/adapters/99999999999999999999", 400, "version"),
        ("POST", "/reheatd/v1/adapters/rollback", 409, None),
        ("GET", "/reheatd/v1/entropy?last=-1", 400, "last"),
        ("GET", "/reheatd/v1/journal?last=many", 400, "last"),
        ("GET", "/reheatd/v1/nowhere", 404, None),
        ("DELETE", "/reheatd/v1/jobs", 405, None),
    ],
)
def test_errors_are_openai_objects(tmp_path: Path, method: str, path: str, status: int, param: str | None) -> None:
    async def story(client: Client, world: ApiWorld) -> None:
        answer = await client.request(method, path)
        assert (answer.status_code, error_of(answer)["param"]) == (status, param)

    talk(ApiWorld(tmp_path), story)


def test_a_full_queue_answers_429(tmp_path: Path) -> None:
    async def story(client: Client, world: ApiWorld) -> None:
        await client.post("/reheatd/v1/jobs", json={"kind": "rl"})
        await world.until_submitted()
        await client.post("/reheatd/v1/jobs", json={"kind": "rl"})
        answer = await client.post("/reheatd/v1/jobs", json={"kind": "rl"})
        assert (answer.status_code, error_of(answer)["code"]) == (429, "queue_full")

    talk(ApiWorld(tmp_path, control={"max_queued": 1}), story)


def test_a_bug_answers_500_without_its_insides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(client: Client, world: ApiWorld) -> None:
        monkeypatch.setattr(world.controller, "job", lambda job_id: 1 / 0)
        answer = await client.get("/reheatd/v1/jobs/reheat-x")
        assert answer.status_code == 500
        assert "division" not in json.dumps(error_of(answer))

    talk(ApiWorld(tmp_path), story)
