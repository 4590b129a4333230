"""Adapter slots on real vLLM: requests in flight while adapters come and go."""

import asyncio
from pathlib import Path

import pytest

from reheatd.engine.client import EngineClient, Sample
from reheatd.engine.slots import AdapterSlots
from reheatd.errors import AdapterInvalidError, ConflictError, NotFoundError
from tests.random_adapter import random_adapter
from tests.serving_pool import pool_of

PROMPT = "What is 17 plus 25?"


async def answer(client: EngineClient, model: str, max_tokens: int = 48) -> Sample:
    return await client.complete(model, PROMPT, max_tokens=max_tokens, temperature=0.0)


def test_a_pinned_version_answers_the_same_while_others_are_swapped(
    engine: str, tiny_policy: Path, tmp_path: Path
) -> None:
    async def body() -> None:
        async with EngineClient(engine) as client:
            slots = AdapterSlots(pool_of(client), 3)
            await slots.load("churn-v0", random_adapter(tmp_path / "v0", tiny_policy, seed=10))
            expected = (await answer(client, "churn-v0")).logprobs
            stop = asyncio.Event()

            async def keep_asking() -> int:
                asked = 0
                while not stop.is_set():
                    with slots.lease("churn-v0"):
                        assert (await answer(client, "churn-v0")).logprobs == pytest.approx(expected, abs=0.05)
                    asked += 1
                return asked

            clients = [asyncio.create_task(keep_asking()) for _ in range(3)]
            # More rounds than slots: vLLM has to reuse the slots of unregistered adapters.
            for version in range(1, 9):
                name = f"churn-v{version}"
                await slots.load(name, random_adapter(tmp_path / name, tiny_policy, seed=10 + version))
                with slots.lease(name):
                    own = await answer(client, name, max_tokens=4)
                assert own.logprobs != pytest.approx(expected[:4], abs=0.05)
                await slots.unload(name)
                with pytest.raises(NotFoundError):
                    await answer(client, name)
            stop.set()
            assert min(await asyncio.gather(*clients)) > 0
            await slots.unload("churn-v0")

    asyncio.run(body())


def test_an_adapter_is_unregistered_only_after_its_requests(engine: str, tiny_policy: Path, tmp_path: Path) -> None:
    async def body() -> None:
        async with EngineClient(engine) as client:
            slots = AdapterSlots(pool_of(client), 1)
            await slots.load("drain-v1", random_adapter(tmp_path / "v1", tiny_policy, seed=20))
            alone = await answer(client, "drain-v1", max_tokens=200)

            async def ask() -> Sample:
                with slots.lease("drain-v1"):
                    return await answer(client, "drain-v1", max_tokens=200)

            asking = asyncio.create_task(ask())
            await asyncio.sleep(0)
            with pytest.raises(ConflictError, match="no adapter slot is free for drain-v2"):
                await slots.load("drain-v2", tmp_path / "v1")
            await slots.unload("drain-v1")
            assert asking.done() and (await asking).token_ids == alone.token_ids
            assert "drain-v1" not in await client.adapters()

    asyncio.run(body())


def test_a_name_left_from_before_stands_for_its_new_files(engine: str, tiny_policy: Path, tmp_path: Path) -> None:
    async def body() -> None:
        async with EngineClient(engine) as client:
            await client.load_adapter("left-v1", random_adapter(tmp_path / "old", tiny_policy, seed=30))
            old = await answer(client, "left-v1", max_tokens=4)
            slots = AdapterSlots(pool_of(client), 2)
            await slots.load("left-v1", random_adapter(tmp_path / "new", tiny_policy, seed=31))
            assert (await answer(client, "left-v1", max_tokens=4)).logprobs != pytest.approx(old.logprobs, abs=0.05)
            await slots.unload("left-v1")

    asyncio.run(body())


def test_a_refused_adapter_takes_no_slot(engine: str, tiny_policy: Path, tmp_path: Path) -> None:
    async def body() -> None:
        async with EngineClient(engine) as client:
            slots = AdapterSlots(pool_of(client), 1)
            with pytest.raises(AdapterInvalidError, match="32"):
                await slots.load("rank-v1", random_adapter(tmp_path / "rank", tiny_policy, rank=32))
            await slots.load("rank-v2", random_adapter(tmp_path / "fits", tiny_policy, rank=8))
            await slots.unload("rank-v2")

    asyncio.run(body())
