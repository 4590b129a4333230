"""Adapters that come from elsewhere: from a stream to a candidate, through restarts, cancellation and bad input."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from reheatd.adapters.archive import pack
from reheatd.adapters.lineage import ProofItem
from reheatd.adapters.validate import base_digest, validate_adapter
from reheatd.control.dependencies import ServedPolicy
from reheatd.control.imports import Imports
from reheatd.control.states import State
from reheatd.errors import AdapterInvalidError, ArchiveInvalidError, QueueFullError, ReheatdError
from reheatd.jobs.contracts import ImportResult, ImportSpec, Job, JobEvent, JobStatus
from reheatd.jobs.rollout_length import RolloutLength
from tests.random_adapter import random_adapter
from tests.unit.control_figures import accuracy, entropy
from tests.unit.control_support import World, finish_one, live, lost

pytestmark = pytest.mark.usefixtures("impatient")
PROOF = [ProofItem(prompt_ids=[1], completion_ids=[2], logprobs=[-1.0], base_logprobs=[-2.0])]


class ImportWorld(World):
    """A world whose policy is the tiny one, and whose validation is the real one."""

    def __init__(self, folder: Path, model: Path, **sections: dict[str, Any]) -> None:
        self.model = model
        super().__init__(folder, **sections)

    def _build(self) -> None:
        self.policy = ServedPolicy("tiny", self.model, base_digest(self.model), vocabulary=320)
        super()._build()
        self.imports = Imports(self.settings, self.policy, self.controller)

    def _validate(self, folder: Path) -> None:
        super()._validate(folder)
        if folder.name == "imported":
            validate_adapter(folder, self.model, max_rank=16)

    async def send(self, files: Mapping[str, Path | bytes], *, any_base: bool = False) -> Job:
        return await self.imports.receive(in_parts(b"".join(pack(files))), source="run-7", any_base=any_base)

    async def until_taken(self, count: int = 1) -> ImportSpec:
        await self.until(lambda: len(self.dispatcher.imports) >= count)
        return self.dispatcher.imports[count - 1]

    async def measure(self, spec: ImportSpec) -> None:
        """The worker measures the adapter and reports success."""
        result = ImportResult(entropy=entropy(0.2), accuracy=accuracy(30), proof=PROOF, seconds=1.0)
        done = JobEvent(kind="succeeded", result=result)
        await self.dispatcher.report(spec.job_id, JobEvent(kind="started"), done)

    def nothing_left(self) -> bool:
        folders = (self.settings.uploads_dir, self.settings.jobs_dir)
        return not [file for folder in folders for file in folder.glob("*")]


async def in_parts(raw: bytes, size: int = 5000) -> AsyncIterator[bytes]:
    for start in range(0, len(raw), size):
        yield raw[start : start + size]


@pytest.fixture
def files(tmp_path: Path, tiny_policy: Path) -> dict[str, Path | bytes]:
    folder = random_adapter(tmp_path / "trained", tiny_policy, rank=4)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def world(tmp_path: Path, tiny_policy: Path) -> ImportWorld:
    return ImportWorld(tmp_path / "data", tiny_policy)


def test_an_import_becomes_a_candidate_that_a_user_promotes(world: ImportWorld, files: dict[str, Any]) -> None:
    async def story(world: Any) -> None:
        await finish_one(world)
        job = await world.send(files)
        assert (job.kind, job.status, job.parent_version) == ("import", JobStatus.QUEUED, 0)
        spec = await world.until_taken()
        assert world.controller.state is State.IMPORTING
        await world.dispatcher.report(job.job_id, JobEvent(kind="started"))
        await world.until(lambda: world.controller.job(job.job_id).started_at)
        # The worker samples from the adapter where it lies.
        name = await world.controller.load_rollout_adapter(job.job_id, spec.adapter, 0)
        assert world.slots.adapters == {name: spec.adapter}
        await world.measure(spec)
        done = await world.until_status(job.job_id, JobStatus.SUCCEEDED)
        assert done.version == 2 and world.swaps.promoted == 1 and done.gates == []
        info = world.store.get(2)
        assert info.state == "candidate" and info.lineage is not None
        assert (info.lineage.kind, info.lineage.parent, info.lineage.proof) == ("imported", 0, PROOF)
        assert info.lineage.entropy_before is None and info.lineage.entropy_after == entropy(0.2)
        assert info.lineage.spec["source"] == "run-7" and info.lineage.spec["trained_on"] == str(world.model)
        await world.until(lambda: not spec.output_dir.exists())
        assert not world.slots.adapters and world.controller.state is State.SERVING
        await world.controller.promote(2)
        assert world.swaps.promoted == 2

    live(world, story)


def test_an_import_survives_a_restart(world: ImportWorld, files: dict[str, Any]) -> None:
    async def story(world: Any) -> None:
        job = await world.send(files)
        spec = await world.until_taken()
        await world.dispatcher.report(job.job_id, JobEvent(kind="started"))
        await world.until(lambda: world.controller.job(job.job_id).started_at)
        later = await world.send(files)
        await world.restart()
        assert world.controller.state is State.IMPORTING
        await world.measure(spec)
        await world.until_status(job.job_id, JobStatus.SUCCEEDED)
        await world.measure(await world.until_taken(2))
        await world.until_status(later.job_id, JobStatus.SUCCEEDED)
        assert world.store.versions() == [0, 1, 2]

    live(world, story)


def test_another_worker_takes_over(world: ImportWorld, files: dict[str, Any]) -> None:
    async def story(world: Any) -> None:
        job = await world.send(files)
        await world.until_taken()
        await world.dispatcher.report(job.job_id, JobEvent(kind="started"), lost(job))
        await world.measure(await world.until_taken(2))
        assert (await world.until_status(job.job_id, JobStatus.SUCCEEDED)).attempt == 2

    live(world, story)


@pytest.mark.parametrize("when", ["queued", "running", "failed", "restarted"])
def test_an_import_that_ends_otherwise_leaves_no_files(world: ImportWorld, files: dict[str, Any], when: str) -> None:
    async def story(world: Any) -> None:
        first = await world.send(files)
        second = await world.send(files)
        spec = await world.until_taken()
        if when == "queued":
            world.controller.cancel(second.job_id)
            assert not (world.settings.jobs_dir / second.job_id).exists()
        elif when == "running":
            world.controller.cancel(first.job_id)
            await world.until_status(first.job_id, JobStatus.CANCELLED)
        elif when == "failed":
            await world.dispatcher.report(first.job_id, JobEvent(kind="failed", error="the engine is gone"))
            await world.until_status(first.job_id, JobStatus.FAILED)
        else:
            orphan = world.settings.jobs_dir / "import-0000"
            orphan.mkdir()
            (world.settings.uploads_dir / "import-0000").mkdir(parents=True)
            await world.restart()
            assert not orphan.exists() and not world.settings.uploads_dir.exists() and spec.adapter.exists()
        if when in ("running", "failed"):
            await world.until(lambda: not spec.output_dir.exists())
        assert world.swaps.promoted == 0 and world.store.versions() == [0]

    live(world, story)


def test_bad_input_leaves_nothing_behind(world: ImportWorld, files: dict[str, Any]) -> None:
    weights = files["adapter_model.safetensors"]
    bad: list[tuple[dict[str, Any], type[ReheatdError], str]] = [
        ({**files, "../escape": b""}, ArchiveInvalidError, "leaves its folder"),
        ({"adapter_model.safetensors": weights}, AdapterInvalidError, "adapter_config.json is needed"),
        ({**files, "adapter_model.safetensors": weights[:-4]}, AdapterInvalidError, "truncated"),
        ({**files, "adapter_config.json": b"{}"}, AdapterInvalidError, "serves only LORA"),
        (
            {**files, "adapter_config.json": files["adapter_config.json"].replace(b'_path": "', b'_path": "else-')},
            AdapterInvalidError,
            "--any-base",
        ),
    ]

    async def story(world: Any) -> None:
        for sent, kind, says in bad:
            with pytest.raises(kind, match=says) as caught:
                await world.send(sent)
            assert "\n" not in caught.value.message
            assert world.nothing_left()
        assert not world.ledger.jobs.all()
        await world.send(bad[-1][0], any_base=True)

    live(world, story)


def test_a_stream_that_breaks_off_or_never_ends_leaves_nothing_behind(tmp_path: Path, tiny_policy: Path) -> None:
    world = ImportWorld(tmp_path / "data", tiny_policy, adapters={"max_import_bytes": 1 << 20})
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1 << 18
            yield bytes(1 << 18)

    async def broken() -> AsyncIterator[bytes]:
        yield bytes(100)
        raise ConnectionError("the client is gone")

    async def story(world: Any) -> None:
        with pytest.raises(ArchiveInvalidError, match=r"more than 1048576 bytes were sent; .*max_import_bytes"):
            await world.imports.receive(endless(), source="x", any_base=False)
        with pytest.raises(ConnectionError):
            await world.imports.receive(broken(), source="x", any_base=False)
        with pytest.raises(ArchiveInvalidError, match="cut off"):
            await world.imports.receive(in_parts(b""), source="x", any_base=False)
        assert world.nothing_left()

    live(world, story)
    assert taken <= (1 << 20) + (1 << 18)


def test_a_full_queue_refuses_before_anything_is_sent(tmp_path: Path, tiny_policy: Path, files: dict[str, Any]) -> None:
    world = ImportWorld(tmp_path / "data", tiny_policy, control={"max_queued": 1})

    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("the stream was read")
        yield b""

    async def story(world: Any) -> None:
        await world.send(files)
        await world.until_taken()
        await world.send(files)
        with pytest.raises(QueueFullError):
            await world.imports.receive(never(), source="x", any_base=False)

    live(world, story)


def test_imports_come_only_with_their_files(tmp_path: Path) -> None:
    from reheatd.errors import BadInputError
    from reheatd.jobs.contracts import parse_request

    with pytest.raises(BadInputError, match="reheatd adapters import"):
        parse_request({"kind": "import", "source": "x"})


async def _publish(world: Any, content: str) -> int:
    folder = world.folder / "trained"
    folder.mkdir(exist_ok=True)
    (folder / "adapter_model.safetensors").write_bytes(content.encode() * 1000)
    (folder / "adapter_config.json").write_text("{}")
    fields: dict[str, Any] = {"parent": 0, "base_model": "tiny", "base_digest": "0", "kind": "rl"}
    return (await world.store.publish(folder, **fields)).version


def test_the_disk_s_limit_holds_for_imports(tmp_path: Path, tiny_policy: Path, files: dict[str, Any]) -> None:
    size = sum(len(content) for content in files.values())
    world = ImportWorld(tmp_path / "data", tiny_policy, adapters={"max_disk_bytes": size + 20_000})

    async def story(world: Any) -> None:
        for content in "abc":
            await _publish(world, content * 9)
        job = await world.send(files)
        await world.measure(await world.until_taken())
        assert (await world.until_status(job.job_id, JobStatus.SUCCEEDED)).version == 4
        assert world.store.versions() == [0, 2, 3, 4]
        await world.controller.promote(4)
        await world.until(lambda: not world.controller.current_job)
        with pytest.raises(ReheatdError, match=r"does not fit: adapters\.max_disk_bytes"):
            await world.send(files)
        assert world.store.versions() == [0, 2, 3, 4] and world.nothing_left()

    asyncio.run(asyncio.wait_for(_lived(world, story), 60))


async def _lived(world: Any, story: Any) -> None:
    async with world:
        await story(world)


def test_the_answers_of_an_import_are_as_long_as_its_worker_finds(
    world: ImportWorld, files: dict[str, Path | bytes]
) -> None:
    async def story(_: World) -> None:
        await world.send(files)
        spec = await world.until_taken()
        assert spec.task.eval_max_tokens is None
        found = RolloutLength(tokens=640, max_model_len=1024, answers=64, unended=0)
        started = JobEvent(kind="started")
        await world.dispatcher.report(spec.job_id, started, JobEvent(kind="progress", length=found))
        await world.measure(spec)
        await world.until_status(spec.job_id, JobStatus.SUCCEEDED)
        lineage = world.store.get(1).lineage
        assert lineage is not None and lineage.spec["task"]["eval_max_tokens"] == 640
        await world.send(files)
        assert (await world.until_taken(2)).task.eval_max_tokens == 640

    live(world, story)
