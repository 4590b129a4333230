"""What serves after an engine, or the daemon, has started again."""

import errno
import shutil
from pathlib import Path
from typing import Any

import pytest

from reheatd.engine.pool import Replica
from reheatd.errors import AdapterInvalidError, EngineUnavailableError, FilesUnreadableError
from tests.unit.test_adapters_swap import FakeEngine, World, in_world


@pytest.mark.parametrize("died_at", ["stage", "verify", "flip", "drain"])
def test_a_restart_at_any_step_serves_what_was_recorded(died_at: str, tmp_path: Path) -> None:
    class Died(BaseException):
        """As if the process ended here."""

    async def body(world: World) -> None:
        await world.publish()
        await world.publish()
        await world.swaps.promote(1)

        def die(stage: str, version: int) -> None:
            if stage == died_at:
                raise Died

        world.swaps._on_stage = die
        with pytest.raises(Died):
            await world.swaps.promote(2)
        world.restart()
        await world.swaps.restore()
        await world.swaps.admit(world.pool.replicas[0])
        served = 2 if died_at == "drain" else 1
        assert world.swaps.model_for("policy") == f"policy-v{served}"
        assert world.engine.loaded() == [f"policy-v{served}"]
        # And the swap can be done again, or back.
        await world.swaps.promote(3 - served)
        assert world.engine.loaded() == [f"policy-v{3 - served}"]

    in_world(tmp_path, body)


def test_lost_files_of_the_promoted_version_are_replaced_by_the_version_before(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        for version in (1, 2, 3):
            await world.publish()
            await world.swaps.promote(version)
        (world.store.path(3) / "adapter_model.safetensors").write_text("broken")
        (world.store.path(2) / "lineage.json").unlink()
        world.restart()
        await world.swaps.restore()
        await world.swaps.admit(world.pool.replicas[0])
        assert (world.swaps.promoted, world.store.promoted(), world.engine.loaded()) == (1, 1, ["policy-v1"])
        assert world.store.get(3).state == "lost"

    in_world(tmp_path, body)


def test_files_that_are_lost_before_an_engine_comes_back_are_replaced_as_well(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        for version in (1, 2):
            await world.publish()
            await world.swaps.promote(version)
        shutil.rmtree(world.store.path(2))
        (replica,) = world.pool.replicas
        replica.eject()
        world.engine.names.clear()
        await world.swaps.admit(replica)
        assert (world.swaps.promoted, world.store.promoted(), world.engine.loaded()) == (1, 1, ["policy-v1"])
        assert world.swaps.model_for("policy") == "policy-v1"
        assert replica.serving and world.slots.loaded() == ["policy-v1"]

    in_world(tmp_path, body)


@pytest.mark.parametrize("fault", ["refused", "proof"])
def test_a_promoted_version_that_an_engine_never_serves_gives_way_to_the_one_before(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reheatd.adapters.swap.REFUSED_PAUSE_S", 0.001)

    async def body(world: World) -> None:
        for version in (1, 2):
            await world.publish()
            await world.swaps.promote(version)
        world.restart()
        fallbacks: list[tuple[int, str]] = []
        world.swaps.on_fallback = lambda version, why: fallbacks.append((version, why))
        (replica,) = world.pool.replicas
        replica.eject()
        if fault == "refused":
            world.engine.refuses = "policy-v2"
        else:
            world.engine.delivers["policy-v2"] = 0.0
        await world.swaps.admit(replica)
        assert (world.swaps.promoted, world.store.promoted(), replica.serving) == (1, 1, True)
        assert "policy-v1" in world.engine.loaded()
        assert world.store.get(2).state == "rejected"
        ((version, why),) = fallbacks
        assert version == 1 and "policy-v2" in why and why.endswith("policy-v1 is served in its place")

    in_world(tmp_path, body)


def test_an_engine_beside_others_is_kept_out_rather_than_the_version(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        await world.publish()
        await world.swaps.promote(1)
        late = Replica("late", "http://nowhere")
        engine: Any = FakeEngine()
        engine.refuses = "policy-v1"
        late.client = engine
        with pytest.raises(AdapterInvalidError):
            await world.swaps.admit(late)
        assert (world.swaps.promoted, late.serving) == (1, False)

    in_world(tmp_path, body)


def test_files_that_cannot_be_read_for_a_moment_are_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(world: World) -> None:
        await world.publish()
        await world.swaps.promote(1)
        world.restart()
        (replica,) = world.pool.replicas
        replica.eject()

        def too_many(folder: Path) -> str:
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as patched:
            patched.setattr("reheatd.adapters.store.content_digest", too_many)
            with pytest.raises(FilesUnreadableError, match="at the moment: Too many open files"):
                await world.swaps.admit(replica)
        assert (world.store.get(1).state, replica.serving) == ("promoted", False)
        await world.swaps.admit(replica)
        assert world.engine.loaded() == ["policy-v1"]

    in_world(tmp_path, body)


def test_a_user_promotes_and_rolls_back_while_no_engine_serves(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        for version in (1, 2, 3):
            await world.publish()
            await world.swaps.promote(version)
        (replica,) = world.pool.replicas
        replica.eject()
        world.engine.names.clear()
        with pytest.raises(EngineUnavailableError):
            await world.swaps.promote(1)  # as a job does, which waits for an engine
        assert (await world.swaps.rollback()).proof is None
        assert world.swaps.model_for("policy") == "policy-v2"
        await world.swaps.promote(1, without_engine=True)
        (world.store.path(3) / "adapter_model.safetensors").write_text("broken")
        with pytest.raises(AdapterInvalidError, match="not those that were published"):
            await world.swaps.promote(3, without_engine=True)
        await world.swaps.admit(replica)
        assert (world.swaps.promoted, world.store.promoted()) == (1, 1)
        assert "policy-v1" in world.engine.loaded()

    in_world(tmp_path, body)
