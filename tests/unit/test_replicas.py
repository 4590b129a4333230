"""The same adapters on every engine, whatever fails on one of them."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from reheatd.adapters.swap import SwapManager
from reheatd.engine.pool import Replica
from reheatd.engine.slots import AdapterSlots
from reheatd.errors import AdapterInvalidError, ConflictError, DeliveryError, EngineError
from tests.serving_pool import pool_of
from tests.unit.test_adapters_swap import FakeEngine, World


class Engine(FakeEngine):
    """Fails at what it is told to, once."""

    base_url = "http://engine"

    def __init__(self) -> None:
        super().__init__()
        self.load_failure: Exception | None = None

    async def load_adapter(self, name: str, path: Path) -> None:
        await asyncio.sleep(0)
        if self.load_failure is not None:
            failure, self.load_failure = self.load_failure, None
            raise failure
        await super().load_adapter(name, path)


class Cluster(World):
    """A world with three engines."""

    def restart(self) -> None:
        super().restart()
        self.engines = [Engine() for _ in range(3)]
        self.pool = pool_of(*self.engines)
        self.slots = AdapterSlots(self.pool, 3)
        self.swaps = SwapManager(self.store, self.slots, self.pool, proof_tolerance=0.1, drain_timeout_s=0.2)

    def names(self) -> list[list[str]]:
        """What each engine holds."""
        return [sorted(engine.loaded()) for engine in self.engines]

    def serving(self) -> list[str]:
        return [replica.name for replica in self.pool.serving()]


def in_cluster(tmp_path: Path, body: Callable[[Cluster], Awaitable[None]]) -> None:
    async def run() -> None:
        cluster = Cluster(tmp_path)
        await cluster.publish()
        await cluster.publish()
        await cluster.swaps.promote(1)
        assert cluster.names() == [["policy-v1"]] * 3
        await body(cluster)

    asyncio.run(run())


def test_a_swap_is_made_on_all(tmp_path: Path) -> None:
    async def body(cluster: Cluster) -> None:
        await cluster.swaps.promote(2)
        assert cluster.names() == [["policy-v2"]] * 3

    in_cluster(tmp_path, body)


def test_a_version_that_one_engine_refuses_serves_nowhere(tmp_path: Path) -> None:
    async def body(cluster: Cluster) -> None:
        cluster.engines[1].load_failure = AdapterInvalidError("rank too high")
        with pytest.raises(AdapterInvalidError, match="rank too high"):
            await cluster.swaps.promote(2)
        assert cluster.names() == [["policy-v1"]] * 3
        assert (cluster.swaps.promoted, cluster.store.promoted()) == (1, 1)
        assert len(cluster.serving()) == 3
        await cluster.swaps.promote(2)  # and can be tried again

    in_cluster(tmp_path, body)


def test_a_version_that_one_engine_does_not_deliver_serves_nowhere(tmp_path: Path) -> None:
    async def body(cluster: Cluster) -> None:
        cluster.engines[2].delivers["policy-v2"] = 0.5
        with pytest.raises(DeliveryError, match="policy-v2"):
            await cluster.swaps.promote(2)
        assert cluster.names() == [["policy-v1"]] * 3
        assert cluster.swaps.promoted == 1

    in_cluster(tmp_path, body)


def test_an_engine_that_cannot_be_reached_is_taken_out_and_the_others_swap(tmp_path: Path) -> None:
    async def body(cluster: Cluster) -> None:
        cluster.engines[1].load_failure = EngineError("connection refused")
        await cluster.swaps.promote(2)
        assert cluster.serving() == ["engine-1", "engine-3"]
        assert cluster.names() == [["policy-v2"], ["policy-v1"], ["policy-v2"]]
        # Restarted, it comes back with what the others have.
        cluster.engines[1].names.clear()
        await cluster.swaps.admit(cluster.pool.replicas[1])
        assert cluster.names() == [["policy-v2"]] * 3
        assert len(cluster.serving()) == 3

    in_cluster(tmp_path, body)


def test_an_engine_that_cannot_unload_is_taken_out(tmp_path: Path) -> None:
    async def body(cluster: Cluster) -> None:
        cluster.engines[0].unload_failure = EngineError("connection refused")
        await cluster.swaps.promote(2)
        assert cluster.serving() == ["engine-2", "engine-3"]
        assert cluster.names()[1:] == [["policy-v2"]] * 2
        assert cluster.slots.loaded() == ["policy-v2"]

    in_cluster(tmp_path, body)


def test_when_none_can_be_reached_the_swap_fails_and_none_is_taken_out(tmp_path: Path) -> None:
    async def body(cluster: Cluster) -> None:
        for engine in cluster.engines:
            engine.load_failure = EngineError("connection refused")
        with pytest.raises(EngineError, match="connection refused"):
            await cluster.swaps.promote(2)
        assert len(cluster.serving()) == 3
        assert cluster.swaps.promoted == 1

    in_cluster(tmp_path, body)


@pytest.mark.parametrize("fault", ["refuses", "answers with another version"])
def test_an_engine_without_the_promoted_version_is_not_let_in(fault: str, tmp_path: Path) -> None:
    async def body(cluster: Cluster) -> None:
        replica = cluster.pool.replicas[0]
        replica.eject()
        cluster.engines[0].names.clear()
        if fault == "refuses":
            cluster.engines[0].load_failure = AdapterInvalidError("no such module")
        else:
            cluster.engines[0].delivers["policy-v1"] = 0.0
        with pytest.raises((AdapterInvalidError, DeliveryError)):
            await cluster.swaps.admit(replica)
        assert cluster.serving() == ["engine-2", "engine-3"]
        assert cluster.slots.loaded() == ["policy-v1"]

    in_cluster(tmp_path, body)


def test_an_engine_that_rounds_differently_is_let_in_again(tmp_path: Path) -> None:
    async def body(cluster: Cluster) -> None:
        replica = cluster.pool.replicas[0]
        replica.eject()
        cluster.engines[0].rounding = [0.12, 0.12, 0.12]  # a promotion allows 0.1
        await cluster.swaps.admit(replica)
        assert len(cluster.serving()) == 3
        with pytest.raises(DeliveryError, match=r"by 0\.120 nats"):
            await cluster.swaps.promote(2)
        replica.eject()
        cluster.engines[0].rounding = [0.18, 0.18, 0.18]
        with pytest.raises(DeliveryError, match=r"by 0\.180 nats"):
            await cluster.swaps.admit(replica)

    in_cluster(tmp_path, body)


def test_the_only_engine_is_let_in_once_it_has_loaded_the_promoted_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reheatd.adapters.swap.REFUSED_PAUSE_S", 0.001)

    async def body(cluster: Cluster) -> None:
        for replica in cluster.pool.replicas:
            replica.eject()
        with pytest.raises(EngineError, match="no engine is ready"):
            await cluster.swaps.promote(2)
        cluster.engines[0].names.clear()
        cluster.engines[0].load_failure = AdapterInvalidError("out of memory")  # once
        await cluster.swaps.admit(cluster.pool.replicas[0])
        assert cluster.serving() == ["engine-1"]
        assert (cluster.swaps.promoted, cluster.engines[0].loaded()) == (1, ["policy-v1"])

    in_cluster(tmp_path, body)


def test_an_engine_that_comes_during_a_swap_waits_until_it_is_over(tmp_path: Path) -> None:
    async def body(cluster: Cluster) -> None:
        late: Replica = cluster.pool.replicas[2]
        late.eject()
        cluster.engines[2].names.clear()
        cluster.engines[2].delivers["policy-v2"] = 0.0  # would fail the swap if it took part, half-way
        admitting: list[asyncio.Task[None]] = []

        def at(stage: str, version: int) -> None:
            if stage == "verify":
                admitting.append(asyncio.create_task(cluster.swaps.admit(late)))

        cluster.swaps._on_stage = at
        await cluster.swaps.promote(2)
        with pytest.raises(DeliveryError):
            await admitting[0]
        assert cluster.serving() == ["engine-1", "engine-2"]
        assert cluster.names()[:2] == [["policy-v2"]] * 2

    in_cluster(tmp_path, body)


def test_adapters_stay_equal_when_slots_run_out(tmp_path: Path) -> None:
    async def body(cluster: Cluster) -> None:
        await cluster.swaps.load_on_demand("policy-v2")
        await cluster.slots.load("job-1-1", cluster.store.path(2))
        await cluster.slots.load("job-1-2", cluster.store.path(2))  # takes the slot of the pinned version
        assert cluster.names() == [["job-1-1", "job-1-2", "policy-v1"]] * 3
        with pytest.raises(ConflictError, match="no adapter slot is free"):
            await cluster.swaps.load_on_demand("policy-v2")

    in_cluster(tmp_path, body)
