"""Which versions are deleted, in which order, and which never are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from reheatd.control.retention import DiskLimitError
from reheatd.errors import ConflictError, NotFoundError
from reheatd.jobs.contracts import JobStatus
from tests.unit.control_support import REHEAT, World, live

SIZE = 3000
"""At least this much a version takes, in bytes: it holds as many numbers."""


async def publish(world: World, count: int) -> None:
    folder = world.folder / "trained"
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text("{}")
    save_file({"q_proj.lora_B.weight": np.ones(SIZE, np.float32)}, folder / "adapter_model.safetensors")
    for _ in range(count):
        fields: dict[str, Any] = {"parent": 0, "base_model": "tiny", "base_digest": "0", "kind": "rl"}
        await world.store.publish(folder, **fields)


def test_pruning_keeps_the_newest_and_what_is_needed(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await publish(world, 8)
        for version in (2, 4, 1):
            await world.controller.promote(version)
        world.slots.adapters["policy-v5"] = world.store.path(5)  # loaded by a pin
        world.swaps.staged.add(6)
        # 1 is promoted, 4 is what a rollback takes, 5 is loaded, 6 staged; 2 was promoted once.
        assert await world.controller.retention.prune(2) == [2, 3]
        assert world.store.versions() == [0, 1, 4, 5, 6, 7, 8]
        assert (await world.controller.rollback()).to_version == 4
        assert await world.controller.retention.prune(0) == [1, 7, 8]  # 1 was rolled back
        assert await world.controller.retention.prune(0) == []

    live(World(tmp_path), story)


def test_a_running_job_s_versions_stay(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await publish(world, 3)
        await world.controller.promote(1)
        job = world.controller.submit(REHEAT)
        await world.until_submitted()
        await world.controller.promote(2)
        await world.controller.promote(3)
        with pytest.raises(ConflictError, match="policy-v1 is in use by a running job"):
            await world.controller.retention.delete(1)
        assert await world.controller.retention.prune(0) == []
        world.controller.cancel(job.job_id)
        await world.until_status(job.job_id, JobStatus.CANCELLED)
        await world.controller.retention.delete(1)
        with pytest.raises(NotFoundError):
            await world.controller.retention.delete(1)
        with pytest.raises(ConflictError, match="promote another version first"):
            await world.controller.retention.delete(0)

    live(World(tmp_path), story)


def test_a_job_s_version_takes_the_place_of_the_oldest(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await publish(world, 3)
        world.settings.adapters.max_disk_bytes = sum(world.store.disk_bytes(version) for version in (1, 2, 3))
        job = world.controller.submit(REHEAT)
        await world.train(await world.until_submitted())
        assert (await world.until_status(job.job_id, JobStatus.SUCCEEDED)).version == 4
        assert world.store.versions() == [0, 2, 3, 4]

    live(World(tmp_path), story)


def test_nothing_is_deleted_if_it_would_not_help(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        await publish(world, 3)
        await world.controller.promote(2)
        await world.controller.promote(3)
        world.settings.adapters.max_disk_bytes = 3 * SIZE
        with pytest.raises(DiskLimitError, match=r"adapters\.max_disk_bytes is 9000"):
            await world.controller.retention.make_room(4 * SIZE)
        assert world.store.versions() == [0, 1, 2, 3]
        job = world.controller.submit(REHEAT)
        world.settings.adapters.max_disk_bytes = 1
        await world.train(await world.until_submitted())
        failed = await world.until_status(job.job_id, JobStatus.FAILED)
        assert "max_disk_bytes" in (failed.error or "") and world.swaps.promoted == 3

    live(World(tmp_path), story)
