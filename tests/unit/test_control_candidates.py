"""A job that made several candidates: the first that passes the gates is promoted, the others are not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from reheatd.control.states import State
from reheatd.errors import AdapterInvalidError, NotFoundError
from reheatd.jobs.contracts import JobResult, JobStatus, ReheatRequest
from reheatd.options import Remedy
from reheatd.signal import Signal
from tests.unit.control_figures import accuracy, entropy
from tests.unit.control_support import World, live
from tests.unit.signal_figures import signal

pytestmark = pytest.mark.usefixtures("impatient")

AUTO = ReheatRequest(remedy="auto", target_entropy=1.7)
ENOUGH = signal(*[1] * 8)


def candidate(result: JobResult, remedy: Remedy, after: Signal = ENOUGH, **changes: Any) -> JobResult:
    """A result like `result`, with an adapter of its own."""
    folder = result.adapter_dir.parent / "candidates" / remedy / "result"
    folder.mkdir(parents=True)
    save_file({"lora_B": np.frombuffer(remedy[:4].encode(), "<f4")}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")
    changed = {"remedy": remedy, "adapter_dir": folder, "signal_before": signal(), "signal_after": after}
    return result.model_copy(update=changed | changes)


async def finish(world: World, *candidates: tuple[Remedy, dict[str, Any]]) -> str:
    """A job of `auto` whose worker has made these candidates, the best first; its id."""
    job = world.controller.submit(AUTO)
    spec = await world.until_submitted()
    made = [candidate(world.result(spec), remedy, **changes) for remedy, changes in candidates]
    best = made[0].model_copy(update={"alternatives": made[1:]})
    await world.train(spec, **{name: getattr(best, name) for name in JobResult.model_fields})
    return job.job_id


def test_the_next_candidate_is_promoted_if_the_first_fails_a_gate(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        worse = {"accuracy_after": accuracy(5)}
        job_id = await finish(world, ("ts_opsd", worse), ("shrink", {"factor": 0.6}))
        job = await world.until_status(job_id, JobStatus.SUCCEEDED)
        assert (job.version, world.swaps.promoted, world.promotions()) == (2, 2, [2])
        assert world.store.get(1).state == "rejected" and not world.swaps.staged
        lineages = [world.store.get(version).lineage for version in (1, 2)]
        assert [(of.remedy, of.factor) for of in lineages if of] == [("ts_opsd", None), ("shrink", 0.6)]
        failed = [gate for gate in job.gates if gate.outcome == "failed"]
        assert [gate.name for gate in failed] == ["accuracy"] and failed[0].detail.startswith("ts_opsd: ")
        assert [gate.detail.partition(":")[0] for gate in job.gates if gate.name == "signal"] == ["ts_opsd", "shrink"]

    live(World(tmp_path), story)


def test_the_best_candidate_that_passes_is_the_only_version(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        job_id = await finish(world, ("shrink", {}), ("ts_opsd", {}))
        job = await world.until_status(job_id, JobStatus.SUCCEEDED)
        assert (job.version, world.store.versions()) == (1, [0, 1])

    live(World(tmp_path), story)


def test_candidates_that_restore_no_signal_are_all_refused(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        job_id = await finish(world, ("shrink", {"after": signal(1)}), ("ts_opsd", {"after": signal()}))
        job = await world.until_status(job_id, JobStatus.REJECTED)
        assert world.swaps.promoted == 0 and world.promotions() == []
        assert world.controller.state is State.SERVING
        assert [world.store.get(version).state for version in (1, 2)] == ["rejected", "rejected"]
        assert "gate signal: 0 of 40 lost problems found again" in (job.error or "")

    live(World(tmp_path), story)


def test_a_candidate_that_somebody_promotes_while_it_is_gated_stays_promoted(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.monitor.entropies["policy-v1"] = entropy(0.9)  # far from the target, so the gate fails
        world.monitor.gate.clear()
        job_id = await finish(world, ("shrink", {}), ("ts_opsd", {}))
        await world.monitor.measuring.wait()
        await world.controller.promote(1)
        world.monitor.gate.set()
        job = await world.until_status(job_id, JobStatus.SUCCEEDED)
        assert (job.version, world.swaps.promoted, world.store.versions()) == (1, 1, [0, 1])
        assert world.store.get(1).state == "promoted"
        assert [gate.outcome for gate in job.gates if gate.name == "entropy"] == ["failed"]
        assert world.promotions() == [1]

    live(World(tmp_path), story)


def test_a_promoted_candidate_stays_promoted_when_its_job_is_cancelled(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.monitor.gate.clear()
        job_id = await finish(world, ("shrink", {}), ("ts_opsd", {}))
        await world.monitor.measuring.wait()
        await world.controller.promote(1)
        world.controller.cancel(job_id)
        await world.until_status(job_id, JobStatus.CANCELLED)
        assert (world.swaps.promoted, world.store.get(1).state) == (1, "promoted")

    live(World(tmp_path), story)


def test_a_candidate_with_broken_files_is_passed_over(tmp_path: Path) -> None:
    class Picky(World):
        def _validate(self, folder: Path) -> None:
            if "shrink" in folder.parts:
                raise AdapterInvalidError("layer 0 has values that are not finite")

    async def story(world: World) -> None:
        job = await world.until_status(await finish(world, ("shrink", {}), ("ts_opsd", {})), JobStatus.SUCCEEDED)
        assert (job.version, world.store.versions()) == (1, [0, 1])
        (invalid,) = [gate.detail for gate in job.gates if gate.outcome == "failed"]
        assert invalid == "shrink: layer 0 has values that are not finite"

    live(Picky(tmp_path), story)


def test_a_restart_between_two_candidates_goes_on_with_the_second(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.monitor.entropies["policy-v1"] = entropy(0.9)  # far from the target
        world.monitor.gate.clear()
        job_id = await finish(world, ("shrink", {}), ("ts_opsd", {}))
        await world.monitor.measuring.wait()
        await world.restart()  # while the first one is measured
        world.monitor.entropies["policy-v1"] = entropy(0.9)
        await world.until_status(job_id, JobStatus.SUCCEEDED)
        assert world.swaps.promoted == 2 and world.store.versions() == [0, 1, 2]

    live(World(tmp_path), story)


@pytest.mark.parametrize(
    ("fields", "param", "says"),
    [
        ({"remedy": "shrink", "tau": 1.5}, "tau", "tau = 1.5 .* remedy = shrink does not use"),
        ({"remedy": "auto", "tau": 1.5}, "tau", "chooses itself"),
        ({"towards": 3}, "towards", "towards = 3 is for remedy = shrink, but the remedy is ts_opsd"),
    ],
)
def test_options_that_a_remedy_does_not_use_are_refused(
    tmp_path: Path, fields: dict[str, Any], param: str, says: str
) -> None:
    async def story(world: World) -> None:
        with pytest.raises(Exception, match=says) as refused:
            world.controller.submit(ReheatRequest(**fields))
        assert getattr(refused.value, "param", None) == param

    live(World(tmp_path), story)


def test_a_version_to_interpolate_towards_has_to_exist(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        with pytest.raises(NotFoundError, match="version 3 does not exist"):
            world.controller.submit(ReheatRequest(remedy="shrink", towards=3))
        world.controller.submit(ReheatRequest(remedy="shrink", towards=0, target_entropy=1.7))

    live(World(tmp_path), story)


def test_a_tau_means_ts_opsd_whatever_remedy_is_configured(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.controller.submit(ReheatRequest(tau=1.5))
        spec = await world.until_submitted()
        assert getattr(spec, "remedy", None) == "ts_opsd"

    live(World(tmp_path, reheat={"remedy": "auto"}), story)


def test_a_collapse_is_answered_by_the_configured_remedy(tmp_path: Path) -> None:
    async def story(world: World) -> None:
        world.see("collapsed", 0.5)
        spec = await world.until_submitted()
        assert getattr(spec, "remedy", None) == "shrink"

    live(World(tmp_path, reheat={"remedy": "shrink"}), story)
