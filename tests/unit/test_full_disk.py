"""A full disk: nothing is left half written, the error is clear, and what waited goes on once there is space."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from reheatd.adapters.store import AdapterStore
from reheatd.database import StateError, connect
from reheatd.entropy.live import LiveSeries
from reheatd.errors import ReheatdError
from reheatd.files import append_whole, publish_folder, write_atomically
from reheatd.jobs.attempts import begin_attempt, of_attempt
from reheatd.jobs.contracts import JobEvent, JobStatus, RLSpec
from reheatd.jobs.curves import CurveWriter, read_curves
from tests.limited_disk import full_disk
from tests.unit.api_support import ApiWorld
from tests.unit.control_support import REHEAT, World, live
from tests.unit.test_adapters_store import FIELDS, publish, source
from tests.unit.test_entropy_live import moments, report
from tests.unit.workers_support import job_fields


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def test_files_and_folders_stay_what_they_were(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "folder"
    write_atomically(file, b"before")
    with full_disk(100), pytest.raises(OSError, match="too large"):
        write_atomically(file, b"after" * 100)
    with full_disk(100), pytest.raises(OSError, match="too large"), publish_folder(folder) as scratch:
        (scratch / "part").write_bytes(bytes(1000))
    with full_disk(10), pytest.raises(OSError, match="too large"):
        append_whole(file, b"+ more than fits")
    assert names(tmp_path) == {"file"} and file.read_bytes() == b"before"
    append_whole(file, b" and after")
    assert file.read_bytes() == b"before and after"


def test_a_curve_is_readable_after_a_line_that_did_not_fit(tmp_path: Path) -> None:
    curves = CurveWriter(tmp_path / "curves.jsonl")
    curves.add(1, {"loss": 1.0})
    size = (tmp_path / "curves.jsonl").stat().st_size
    with full_disk(size + 10), pytest.raises(ReheatdError, match="free or repair the disk"):
        curves.add(2, {"loss": 2.0})
    curves.add(3, {"loss": 3.0})
    assert [point.step for point in read_curves(tmp_path / "curves.jsonl")] == [1, 3]


def test_an_attempt_that_cannot_begin_leaves_no_folder(tmp_path: Path) -> None:
    spec = RLSpec(**job_fields(tmp_path))
    (begin_attempt(spec, 1).output_dir / "checkpoint.pt").write_bytes(bytes(1000))
    with full_disk(100), pytest.raises(ReheatdError, match="free or repair the disk"):
        begin_attempt(spec, 2)
    assert not of_attempt(spec, 2).output_dir.exists()
    assert (begin_attempt(spec, 2).output_dir / "checkpoint.pt").read_bytes() == bytes(1000)


def test_a_version_is_published_whole_or_not_at_all_and_keeps_its_number(tmp_path: Path) -> None:
    db = connect(tmp_path / "reheatd.sqlite3")
    store = AdapterStore(tmp_path / "adapters", db)
    publish(store, tmp_path, "a")
    large = source(tmp_path, "b")
    (large / "adapter_model.safetensors").write_bytes(bytes(8 << 20))
    with full_disk(4 << 20), pytest.raises(StateError, match="free or repair the disk"):
        asyncio.run(store.publish(large, **FIELDS))
    assert store.versions() == [0, 1] and len([*(tmp_path / "adapters").iterdir()]) == 1
    assert asyncio.run(store.publish(large, **FIELDS)).version == 2
    db.close()


def test_nothing_of_a_transaction_that_did_not_fit_is_stored(tmp_path: Path) -> None:
    db = connect(tmp_path / "reheatd.sqlite3")
    store = AdapterStore(tmp_path / "adapters", db)
    for content in "ab":
        publish(store, tmp_path, content)
    store.promote(1)
    with full_disk(), pytest.raises(StateError, match=r"reheatd\.sqlite3 cannot be read or written .* free or repair"):
        store.promote(2)
    assert store.promoted() == 1 and [store.get(number).state for number in (1, 2)] == ["promoted", "candidate"]
    store.promote(2)
    assert store.promoted() == 2
    db.close()


def test_live_windows_that_did_not_fit_are_recorded_later(tmp_path: Path) -> None:
    db = connect(tmp_path / "reheatd.sqlite3")
    series = LiveSeries(db, confidence=0.95)
    series.take(report(moments([0.5, 0.7], [0.1, 0.2])))
    with full_disk(), pytest.raises(StateError):
        series.close_windows()
    assert series.last(9) == [] and series.newest() == []
    (window,) = series.close_windows()
    assert window.estimate.tokens == 4 and series.last(9) == [window]
    db.close()


def test_a_job_goes_on_when_there_is_space_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reheatd.control.controller.STATE_RETRY_S", 0.02)

    async def story(world: World) -> None:
        job = world.controller.submit(REHEAT)
        spec = await world.until_submitted()
        result = world.result(spec)
        await world.dispatcher.report(job.job_id, JobEvent(kind="started"))
        await world.until(lambda: world.controller.job(job.job_id).started_at)
        with full_disk():
            await world.dispatcher.report(job.job_id, JobEvent(kind="succeeded", result=result))
            await asyncio.sleep(0.2)
            assert world.ledger.jobs.get(job.job_id).job.status is JobStatus.RUNNING
        await world.until_status(job.job_id, JobStatus.SUCCEEDED)
        assert world.promotions() == [1] and world.dispatcher.attempts == [1]

    live(World(tmp_path), story)


def test_a_request_that_cannot_be_recorded_gets_a_clear_answer(tmp_path: Path) -> None:
    async def story(world: ApiWorld) -> None:
        transport = httpx.ASGITransport(world.app(), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://daemon") as client:
            body: dict[str, Any] = {"kind": "reheat", "tau": 1.5}
            with full_disk():
                answer = await client.post("/reheatd/v1/jobs", json=body)
                assert (answer.status_code, answer.json()["error"]["code"]) == (507, "state_unusable")
                assert (await client.get("/reheatd/v1/jobs")).json()["jobs"] == []
                assert (await client.get("/health")).status_code == 200
            assert (await client.post("/reheatd/v1/jobs", json=body)).status_code == 202

    async def run() -> None:
        world = ApiWorld(tmp_path)
        async with world:
            await story(world)

    asyncio.run(run())
