"""Adapter slots: what is loaded, what may be given up, and requests in flight."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from reheatd.engine.slots import AdapterSlots
from reheatd.errors import AdapterInvalidError, ConflictError, EngineError
from tests.serving_pool import pool_of


class FakeEngine:
    """Holds names as vLLM does; `pause` makes every call wait until it is set."""

    def __init__(self) -> None:
        self.names: dict[str, Path] = {}
        self.calls: list[str] = []
        self.failure: Exception | None = None
        self.pause: asyncio.Event | None = None

    async def _called(self, call: str) -> None:
        self.calls.append(call)
        if self.pause is not None:
            await self.pause.wait()
        if self.failure is not None:
            raise self.failure

    async def load_adapter(self, name: str, path: Path) -> None:
        await self._called(f"load {name}")
        assert name not in self.names
        self.names[name] = path

    async def unload_all(self) -> None:
        self.names.clear()

    async def unload_adapter(self, name: str) -> None:
        await self._called(f"unload {name}")
        del self.names[name]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "adapter_model.safetensors").write_bytes(b"weights")
    return tmp_path


def with_slots(body: Callable[[AdapterSlots, FakeEngine], Awaitable[None]], max_loras: int = 2) -> FakeEngine:
    async def run(engine: FakeEngine) -> FakeEngine:
        await body(AdapterSlots(pool_of(engine), max_loras), engine)
        return engine

    return asyncio.run(run(FakeEngine()))


async def settled() -> None:
    """Lets every other task run as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_a_full_engine_gives_up_the_idle_evictable_adapter_used_longest_ago(folder: Path) -> None:
    async def body(slots: AdapterSlots, engine: FakeEngine) -> None:
        for name in ("policy-v1", "policy-v2", "policy-v3"):
            await slots.load(name, folder)
        slots.mark_evictable("policy-v1")
        slots.mark_evictable("policy-v2")
        with slots.lease("policy-v1"):
            pass  # used later than v2
        await slots.load("policy-v4", folder)
        assert slots.loaded() == ["policy-v3", "policy-v1", "policy-v4"]
        assert set(engine.names) == set(slots.loaded())

    with_slots(body, max_loras=3)


def test_adapters_in_use_or_not_evictable_are_never_given_up(folder: Path) -> None:
    async def body(slots: AdapterSlots, engine: FakeEngine) -> None:
        await slots.load("policy-v1", folder)
        await slots.load("policy-v2", folder)
        slots.mark_evictable("policy-v2")
        with (
            slots.lease("policy-v2"),
            pytest.raises(ConflictError, match=r"policy-v3.*policy-v1, policy-v2 are loaded"),
        ):
            await slots.load("policy-v3", folder)
        slots.keep("policy-v2")
        with pytest.raises(ConflictError, match=r"engine\.max_loras"):
            await slots.load("policy-v3", folder)
        assert set(engine.names) == {"policy-v1", "policy-v2"}

    with_slots(body)


def test_concurrent_loads_of_one_name_reach_the_engine_once(folder: Path) -> None:
    async def body(slots: AdapterSlots, engine: FakeEngine) -> None:
        await asyncio.gather(*(slots.load("policy-v1", folder) for _ in range(5)))
        assert engine.calls == ["load policy-v1"]

    with_slots(body)


def test_a_name_stands_for_one_folder(folder: Path, tmp_path: Path) -> None:
    async def body(slots: AdapterSlots, engine: FakeEngine) -> None:
        await slots.load("policy-v1", folder)
        with pytest.raises(ConflictError, match="never reused"):
            await slots.load("policy-v1", tmp_path / "other")

    with_slots(body)


def test_unload_waits_for_the_last_request(folder: Path) -> None:
    async def body(slots: AdapterSlots, engine: FakeEngine) -> None:
        await slots.load("policy-v1", folder)
        first, second = slots.lease("policy-v1"), slots.lease("policy-v1")
        first.__enter__()
        second.__enter__()
        unloading = asyncio.create_task(slots.unload("policy-v1"))
        await settled()
        first.__exit__(None, None, None)
        await settled()
        assert slots.is_loaded("policy-v1") and not unloading.done()
        assert slots.in_flight("policy-v1") == slots.in_flight() == 1
        second.__exit__(None, None, None)
        await unloading
        assert slots.loaded() == [] and engine.names == {}

    with_slots(body)


def test_a_request_that_comes_while_another_change_is_made_keeps_its_adapter(folder: Path) -> None:
    async def body(slots: AdapterSlots, engine: FakeEngine) -> None:
        await slots.load("policy-v1", folder)
        engine.pause = asyncio.Event()
        loading = asyncio.create_task(slots.load("policy-v2", folder))
        await asyncio.to_thread(lambda: None)
        unloading = asyncio.create_task(slots.unload("policy-v1"))  # idle now, but the other change comes first
        await settled()
        lease = slots.lease("policy-v1")
        lease.__enter__()
        engine.pause.set()
        await loading
        await settled()
        assert slots.is_loaded("policy-v1")
        lease.__exit__(None, None, None)
        await unloading
        assert slots.loaded() == ["policy-v2"]

    with_slots(body)


def test_an_adapter_that_does_not_drain_stays_loaded(folder: Path) -> None:
    async def body(slots: AdapterSlots, engine: FakeEngine) -> None:
        await slots.load("policy-v1", folder)
        with slots.lease("policy-v1"):
            assert not await slots.drain("policy-v1", 0.01)
            assert slots.in_flight() == 1
            with pytest.raises(ConflictError, match="1 requests are still in flight on policy-v1"):
                await slots.unload("policy-v1", drain_timeout_s=0.01)
        assert slots.is_loaded("policy-v1")
        assert await slots.drain("policy-v1", 0.01)

    with_slots(body)


def test_the_account_follows_the_engine_when_a_change_fails(folder: Path) -> None:
    async def body(slots: AdapterSlots, engine: FakeEngine) -> None:
        engine.failure = EngineError("gone")
        with pytest.raises(EngineError):
            await slots.load("policy-v1", folder)
        assert slots.loaded() == []
        engine.failure = None
        await slots.load("policy-v1", folder)
        engine.failure = EngineError("gone")
        with pytest.raises(EngineError):
            await slots.unload("policy-v1")
        assert slots.is_loaded("policy-v1")

    with_slots(body)


def test_a_missing_folder_never_reaches_the_engine(tmp_path: Path) -> None:
    async def body(slots: AdapterSlots, engine: FakeEngine) -> None:
        with pytest.raises(AdapterInvalidError, match=r"policy-v1 cannot be read from .*none"):
            await slots.load("policy-v1", tmp_path / "none")
        assert engine.calls == []

    with_slots(body)


def test_after_a_restart_everything_is_loaded_again_but_what_is_refused(folder: Path, tmp_path: Path) -> None:
    vanished = tmp_path / "vanished"
    vanished.mkdir()

    async def body(slots: AdapterSlots, engine: FakeEngine) -> None:
        await slots.load("job-1-2", vanished)
        await slots.load("policy-v1", folder)
        vanished.rmdir()
        engine.names.clear()
        engine.failure = EngineError("still starting")
        (replica,) = slots._pool.replicas
        replica.eject()
        with pytest.raises(EngineError):
            await slots.admit(replica, settled)
        assert not replica.serving
        engine.failure = None
        await slots.admit(replica, settled)
        assert replica.serving
        assert slots.loaded() == ["policy-v1"]
        assert engine.names == {"policy-v1": folder}

    with_slots(body)
