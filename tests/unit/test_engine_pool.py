"""Several engines: which one a request goes to, and when one is out."""

import asyncio
from collections import Counter
from typing import Any

import aiohttp
import pytest

from reheatd.engine.keeper import EngineKeeper
from reheatd.engine.pool import EnginePool, Replica
from reheatd.errors import DeliveryError, EngineError, EngineUnavailableError
from reheatd.gateway.affinity import prompt_prefix
from reheatd.process.supervisor import Supervisor
from tests.serving_pool import pool_of
from tests.waiting import until

PREFIXES = [f"conversation {number}" for number in range(300)]


def test_conversations_stay_where_their_prefix_is_cached_and_spread_evenly() -> None:
    pool = pool_of("http://a", "http://b", "http://c")
    homes = {prefix: pool.pick(prefix).name for prefix in PREFIXES}
    assert homes == {prefix: pool.pick(prefix).name for prefix in PREFIXES}
    assert min(Counter(homes.values()).values()) > 70
    # Only the conversations of the one that leaves move, and they come back with it.
    pool.replicas[1].eject()
    without = {prefix: pool.pick(prefix).name for prefix in PREFIXES}
    assert {prefix for prefix in PREFIXES if without[prefix] != homes[prefix]} == {
        prefix for prefix in PREFIXES if homes[prefix] == "engine-2"
    }
    pool.replicas[1].enter()
    assert homes == {prefix: pool.pick(prefix).name for prefix in PREFIXES}


def test_a_busy_home_is_left_for_the_least_busy_engine() -> None:
    pool = pool_of("http://a", "http://b")
    home = pool.pick("p")
    other = next(replica for replica in pool.replicas if replica is not home)
    home.outstanding = other.outstanding + 2
    assert pool.pick("p") is home
    home.outstanding += 1
    assert pool.pick("p") is other
    home.outstanding, other.outstanding = 0, 1
    assert pool.pick(None) is home


def test_engines_that_are_out_or_do_not_answer_are_avoided() -> None:
    pool = pool_of("http://a", "http://b")
    first, second = pool.replicas
    first.responsive = False
    assert {pool.pick(prefix).name for prefix in PREFIXES} == {second.name}
    second.eject()
    assert pool.pick("p") is first  # better than to refuse
    with pytest.raises(EngineUnavailableError, match="no engine is ready"):
        pool.pick("p", tried=[first])


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        (
            {"model": "m", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]},
            {
                "model": "m",
                "messages": [
                    {"role": "system", "content": "s"},
                    {"role": "user", "content": "q"},
                    {"role": "assistant", "content": "a"},
                    {"role": "user", "content": "and?"},
                ],
            },
            True,
        ),
        (
            {"model": "m", "messages": [{"role": "user", "content": "q"}]},
            {"model": "m", "messages": [{"role": "user", "content": "r"}]},
            False,
        ),
        ({"model": "m", "prompt": "x" * 2000 + "a"}, {"model": "m", "prompt": "x" * 2000 + "b"}, True),
        ({"model": "m", "prompt": "a"}, {"model": "n", "prompt": "a"}, False),
        ({"model": "m", "prompt": [1, 2, 3]}, {"model": "m", "prompt": [1, 2, 4]}, False),
        ({"model": "m", "prompt": ["a", "b"]}, {"model": "m", "prompt": "a"}, True),
    ],
)
def test_what_begins_alike(one: dict[str, Any], other: dict[str, Any], alike: bool) -> None:
    assert prompt_prefix(one) and prompt_prefix(other)
    assert (prompt_prefix(one) == prompt_prefix(other)) is alike


@pytest.mark.parametrize("body", [{}, {"prompt": ""}, {"messages": []}, {"prompt": 5}, {"messages": ["?"]}])
def test_without_a_prompt_there_is_no_prefix(body: dict[str, Any]) -> None:
    assert prompt_prefix(body) is None


class Health:
    """An engine whose health checks give what they are told; an exception is raised."""

    base_url = "http://engine"

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)

    async def health(self) -> int:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


BROKEN = aiohttp.ClientError()


@pytest.mark.parametrize("end", [[503], [BROKEN] * 3])
def test_a_slow_answer_or_an_error_is_no_death_but_errors_in_a_row_are(
    end: list[int | Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reheatd.engine.pool.WATCH_S", 0.01)

    async def body() -> None:
        engine = Health(200, TimeoutError(), 200, BROKEN, BROKEN, 200, *end)
        (replica,) = pool_of(engine).replicas
        await replica.until_dead()
        assert engine.answers == []
        assert replica.responsive is (end == [503])

    asyncio.run(body())


def test_an_engine_that_is_silent_for_long_is_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reheatd.engine.pool.WATCH_S", 0.01)
    monkeypatch.setattr("reheatd.engine.pool.SILENT_S", 0.1)

    async def body() -> None:
        engine = Health(200, *[TimeoutError() for _ in range(1000)])
        (replica,) = pool_of(engine).replicas
        await replica.until_dead()
        assert not replica.responsive
        assert len(engine.answers) > 900

    asyncio.run(body())


def test_an_engine_that_sends_tokens_and_has_no_time_for_health_checks_is_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("reheatd.engine.pool.WATCH_S", 0.01)
    monkeypatch.setattr("reheatd.engine.pool.SILENT_S", 0.1)
    streams = 50

    class Busy(Health):
        async def health(self) -> int:
            if len(self.answers) > 1000 - streams:
                replica.hear()
            return await super().health()

    engine = Busy(*[TimeoutError() for _ in range(1000)])
    (replica,) = pool_of(engine).replicas
    asyncio.run(replica.until_dead())
    assert len(engine.answers) < 1000 - streams  # it was dead only when the stream had ended


def test_an_ejected_engine_is_dealt_with_at_once() -> None:
    async def body() -> None:
        (replica,) = pool_of(Health(200)).replicas
        dead = asyncio.create_task(replica.until_dead())
        await asyncio.sleep(0)
        replica.eject()
        await dead

    asyncio.run(body())


class Elsewhere:
    """An engine that runs elsewhere: up or down, as told."""

    base_url = "http://engine"

    def __init__(self, *, up: bool) -> None:
        self.up = asyncio.Event()
        if up:
            self.up.set()

    async def wait_ready(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self.up.wait()
        except TimeoutError as error:
            raise EngineError("no answer") from error

    async def health(self) -> int:
        return 200 if self.up.is_set() else 503


async def serves(replica: Replica, serving: bool = True) -> None:
    await until(lambda: replica.serving is serving)


def keeper(pool: EnginePool, tmp_path: Any, refused: list[Replica], timeout_s: float = 0.2) -> EngineKeeper:
    for replica in pool.replicas:
        replica.eject()

    async def admit(replica: Replica) -> None:
        if replica in refused:
            raise DeliveryError("answers with another version")
        replica.enter()

    return EngineKeeper(pool, Supervisor(tmp_path), [], admit, startup_timeout_s=timeout_s)


def test_engines_elsewhere_come_and_go(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reheatd.engine.pool.WATCH_S", 0.01)
    monkeypatch.setattr("reheatd.engine.keeper.RETRY_S", 0.01)

    async def body() -> None:
        first, late = Elsewhere(up=True), Elsewhere(up=False)
        pool = pool_of(first, late)
        refused: list[Replica] = []
        kept = keeper(pool, tmp_path, refused)
        await kept.start()
        assert [replica.name for replica in pool.serving()] == ["engine-1"]
        watching = asyncio.create_task(kept.watch())
        await asyncio.sleep(0.5)  # longer than one wait for it
        late.up.set()
        await serves(pool.replicas[1])
        refused.append(pool.replicas[0])
        first.up.clear()
        await serves(pool.replicas[0], False)
        first.up.set()
        await asyncio.sleep(0.1)
        assert [replica.name for replica in pool.serving()] == ["engine-2"]  # up again with the wrong version: kept out
        refused.clear()
        await serves(pool.replicas[0])
        watching.cancel()

    asyncio.run(body())


def test_without_any_engine_there_is_no_start(tmp_path: Any) -> None:
    async def body() -> None:
        pool = pool_of(Elsewhere(up=False), Elsewhere(up=False))
        with pytest.raises(EngineError, match="no answer"):
            await keeper(pool, tmp_path, []).start()

    asyncio.run(body())
