"""The swap protocol: what serves after each way it can go."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from reheatd.adapters.lineage import ProofItem
from reheatd.adapters.store import AdapterStore
from reheatd.adapters.swap import SwapManager
from reheatd.database import connect
from reheatd.engine.client import Score
from reheatd.engine.slots import AdapterSlots
from reheatd.errors import (
    AdapterInvalidError,
    ConflictError,
    DeliveryError,
    EngineError,
    ModelNotFoundError,
    NotFoundError,
)
from tests.serving_pool import pool_of
from tests.waiting import HANGS_S, until

CHANGE = [0.5, -0.5, 0.25]


class FakeEngine:
    """Answers like a delivered adapter: the base's logprobs are -2, an adapter's those plus its share of CHANGE."""

    def __init__(self) -> None:
        self.names: dict[str, Path] = {}
        self.delivers: dict[str, float] = {}
        self.cached: dict[str, float] = {}
        """What the prefix cache delivers, if that is another share."""
        self.rounding = [0.0] * len(CHANGE)
        """What it is off by."""
        self.unload_failure: Exception | None = None
        self.refuses: str | None = None
        """A version that it does not load."""

    def loaded(self) -> list[str]:
        """The loaded versions, without the digest of their weights."""
        return [_version(name) for name in self.names]

    async def load_adapter(self, name: str, path: Path) -> None:
        assert (path / "adapter_model.safetensors").is_file()
        if self.refuses == _version(name):
            raise AdapterInvalidError(f"the engine refuses {name}")
        assert name.startswith("job-") or name == path.name  # which has the digest of the weights
        self.names[name] = path

    async def unload_all(self) -> None:
        self.names.clear()

    async def unload_adapter(self, name: str) -> None:
        if self.unload_failure is not None:
            raise self.unload_failure
        del self.names[name]

    async def score(self, model: str, prompt_ids: list[int], completion_ids: list[int]) -> list[float]:
        if model == "base":
            return [-2.0 + off for off in self.rounding]
        assert model in self.names
        share = self.delivers.get(_version(model), 1.0)
        return [-2 + share * change + off for change, off in zip(CHANGE, self.rounding, strict=True)]

    async def score_and_next(
        self, model: str, prompt_ids: list[int], completion_ids: list[int], *, top_k: int
    ) -> Score:
        return Score(await self.score(model, prompt_ids, completion_ids), {7: -1.0})

    async def next_logprobs(
        self, model: str, prompt_ids: list[int], *, top_k: int, cache_salt: str | None = None
    ) -> dict[int, float]:
        delivers = self.delivers.get(_version(model), 1.0)
        cached = delivers if cache_salt else self.cached.get(_version(model), delivers)
        return {7: -1.0 + (cached - delivers) * CHANGE[-1]}


def _version(engine_name: str) -> str:
    return "-".join(engine_name.split("-")[:2]) if engine_name.startswith("policy-v") else engine_name


class World:
    """Store, slots and swap manager of a daemon in front of a fake engine; `restart` is a new one on the same files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stages: list[tuple[str, int]] = []
        self.restart()

    def restart(self) -> None:
        self.engine: Any = FakeEngine()
        self.store = AdapterStore(self.folder / "adapters", connect(self.folder / "db.sqlite3"))
        self.pool = pool_of(self.engine)
        self.slots = AdapterSlots(self.pool, 3)
        self.swaps = SwapManager(
            self.store,
            self.slots,
            self.pool,
            proof_tolerance=0.1,
            drain_timeout_s=0.2,
            on_stage=lambda stage, version: self.stages.append((stage, version)),
        )

    async def publish(self, *, proof: bool = True) -> int:
        source = self.folder / "trained"
        source.mkdir(exist_ok=True)
        (source / "adapter_model.safetensors").write_text("weights")
        (source / "adapter_config.json").write_text("{}")
        item = ProofItem(
            prompt_ids=[1],
            completion_ids=[1, 2, 3],
            logprobs=[-2 + change for change in CHANGE],
            base_logprobs=[-2.0] * 3,
        )
        record = await self.store.publish(
            source, parent=0, base_model="tiny", base_digest="0", kind="rl", proof=[item] if proof else []
        )
        return record.version


def in_world(tmp_path: Path, body: Callable[[World], Awaitable[None]]) -> None:
    asyncio.run(_run(World(tmp_path), body))


async def _run(world: World, body: Callable[[World], Awaitable[None]]) -> None:
    await body(world)


def test_promote_and_roll_back(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        swaps = world.swaps
        assert (swaps.promoted, swaps.model_for("policy"), swaps.model_for("policy-v0")) == (0, "base", "base")
        await world.publish()
        report = await swaps.promote(1)
        assert (report.from_version, report.to_version) == (0, 1)
        assert report.proof is not None
        assert report.proof.slope == pytest.approx(1)
        assert (swaps.model_for("policy"), swaps.model_for("base")) == ("policy-v1", "base")
        await world.publish()
        await swaps.promote(2)
        assert world.slots.loaded() == ["policy-v2"]
        assert world.stages[-4:] == [("stage", 2), ("verify", 2), ("flip", 2), ("drain", 1)]
        report = await swaps.rollback()
        assert (report.from_version, report.to_version, swaps.model_for("policy")) == (2, 1, "policy-v1")
        await swaps.promote(0)
        assert (swaps.model_for("policy"), world.engine.loaded()) == ("base", [])

    in_world(tmp_path, body)


def test_an_undelivered_adapter_leaves_the_old_one_serving(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        await world.publish()
        await world.swaps.promote(1)
        await world.publish()
        world.engine.delivers["policy-v2"] = 0.0
        with pytest.raises(DeliveryError, match="policy-v2"):
            await world.swaps.promote(2)
        assert (world.swaps.promoted, world.store.promoted()) == (1, 1)
        assert world.engine.loaded() == ["policy-v1"]

    in_world(tmp_path, body)


def test_a_cache_of_other_weights_is_noticed(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        await world.publish()
        world.engine.cached["policy-v1"] = 3.0
        with pytest.raises(DeliveryError, match="policy-v1 answers from a prefix cache that other weights"):
            await world.swaps.promote(1)
        assert (world.swaps.promoted, world.engine.loaded()) == (0, [])

    in_world(tmp_path, body)


def test_a_request_that_pins_a_refused_version_does_not_hide_why_it_was_refused(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        await world.publish()
        world.engine.delivers["policy-v1"] = 3.0
        with world.slots.lease("policy-v1"), pytest.raises(DeliveryError):
            await world.swaps.promote(1)
        assert world.swaps.promoted == 0

    in_world(tmp_path, body)


def test_requests_on_the_old_version_are_waited_for_and_keep_it_if_they_take_too_long(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        for _ in range(3):
            await world.publish()
        await world.swaps.promote(1)
        at_most_s, world.swaps._drain_timeout_s = world.swaps._drain_timeout_s, HANGS_S
        lease = world.slots.lease("policy-v1")
        lease.__enter__()
        swap = asyncio.create_task(world.swaps.promote(2))
        await until(lambda: world.swaps.promoted == 2)  # new requests go to the new one already
        assert "policy-v1" in world.engine.loaded()
        assert not swap.done()
        lease.__exit__(None, None, None)
        await swap
        assert world.engine.loaded() == ["policy-v2"]

        world.swaps._drain_timeout_s = at_most_s
        with world.slots.lease("policy-v2"):
            await world.swaps.promote(3)
            assert sorted(world.engine.loaded()) == ["policy-v2", "policy-v3"]

    in_world(tmp_path, body)


def test_an_engine_that_does_not_unload_does_not_undo_the_swap(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        await world.publish()
        await world.publish()
        await world.swaps.promote(1)
        world.engine.unload_failure = EngineError("gone")
        assert (await world.swaps.promote(2)).to_version == 2
        assert (world.swaps.promoted, world.store.promoted()) == (2, 2)

    in_world(tmp_path, body)


def test_a_swap_that_is_cancelled_before_the_flip_unloads_the_new_version(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        await world.publish()
        scoring = asyncio.Event()

        async def hang(*_: object, **__: object) -> list[float]:
            scoring.set()
            await asyncio.Event().wait()
            return []

        world.engine.score_and_next = hang
        swap = asyncio.create_task(world.swaps.promote(1))
        await scoring.wait()
        swap.cancel()
        with pytest.raises(asyncio.CancelledError):
            await swap
        assert (world.swaps.promoted, world.engine.loaded()) == (0, [])

    in_world(tmp_path, body)


def test_a_record_that_cannot_be_written_leaves_the_old_version_serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(world: World) -> None:
        await world.publish()

        def full(version: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(world.store, "promote", full)
        with pytest.raises(OSError, match="No space left"):
            await world.swaps.promote(1)
        assert (world.swaps.model_for("policy"), world.engine.loaded()) == ("base", [])

    in_world(tmp_path, body)


def test_one_swap_at_a_time(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        await world.publish()
        await world.publish()
        await asyncio.gather(world.swaps.promote(1), world.swaps.promote(2))
        assert world.stages == [
            ("stage", 1),
            ("verify", 1),
            ("flip", 1),
            ("stage", 2),
            ("verify", 2),
            ("flip", 2),
            ("drain", 1),
        ]

    in_world(tmp_path, body)


def test_pinned_versions_give_their_slot_up_and_staged_ones_do_not(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        for _ in range(5):
            await world.publish()
        await world.swaps.promote(1)
        await world.swaps.stage(2)
        for name in ("policy-v2", "policy-v3", "policy-v4", "policy-v5"):
            await world.swaps.load_on_demand(name)
        assert sorted(world.engine.loaded()) == ["policy-v1", "policy-v2", "policy-v5"]
        await world.swaps.promote(2)  # was staged and is promoted: still kept
        for name in ("policy-v3", "policy-v4", "policy-v5"):
            await world.swaps.load_on_demand(name)
        assert "policy-v2" in world.engine.loaded()

    in_world(tmp_path, body)


def test_bad_requests(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        for name in ("policy-v7", "gpt-4o", "job-x-1", ""):
            with pytest.raises(ModelNotFoundError, match=f"model '{name}' does not exist"):
                world.swaps.model_for(name)
        with pytest.raises(NotFoundError, match="version 7"):
            await world.swaps.promote(7)
        with pytest.raises(ConflictError, match="policy-v0 is promoted already"):
            await world.swaps.promote(0)
        with pytest.raises(ConflictError, match="nothing to roll back to"):
            await world.swaps.rollback()

    in_world(tmp_path, body)


def test_a_version_without_proof_is_promoted_only_on_demand_and_can_be_rolled_back_to(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        await world.publish(proof=False)
        with pytest.raises(DeliveryError, match="without proof items"):
            await world.swaps.promote(1)
        assert (await world.swaps.promote(1, prove_delivery=False)).proof is None
        await world.publish()
        await world.swaps.promote(2)
        assert (await world.swaps.rollback()).to_version == 1

    in_world(tmp_path, body)


def test_delete_takes_the_files_last_and_nothing_that_serves(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        await world.publish()
        await world.publish()
        await world.swaps.promote(1)
        await world.swaps.stage(2)
        for version in (0, 1, 2):
            with pytest.raises(ConflictError, match="is being served"):
                await world.swaps.delete(version)
        await world.swaps.discard(2)
        await world.swaps.load_on_demand("policy-v2")
        folder = world.store.path(2)
        with world.slots.lease("policy-v2"):
            with pytest.raises(ConflictError, match="still in flight on policy-v2"):
                await world.swaps.delete(2)
            assert folder.is_dir()
        await world.swaps.delete(2)
        assert not folder.exists()
        assert world.engine.loaded() == ["policy-v1"]
        with pytest.raises(ModelNotFoundError):
            world.swaps.model_for("policy-v2")

    in_world(tmp_path, body)


def test_the_name_in_an_answer_pins_the_version_that_gave_it(tmp_path: Path) -> None:
    async def body(world: World) -> None:
        await world.publish()
        await world.swaps.promote(1)
        (name,) = world.engine.names
        assert world.swaps.model_for(name) == "policy-v1"
        with pytest.raises(ModelNotFoundError):
            world.swaps.model_for("policy-v1-000000000000")

    in_world(tmp_path, body)
