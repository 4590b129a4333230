"""Sampling through the gateway: what runs at once, what is reported meanwhile, and how it ends."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from reheatd.engine.client import EngineClient, Sample
from reheatd.errors import BadInputError, EngineError
from reheatd.jobs.contracts import RLSpec
from reheatd.tasks.problem import Problem
from tests.probes import task_probes
from tests.unit.workers_support import job_fields
from workers.progress import JobCancelledError
from workers.sampling.rollout import Batch
from workers.sampling.served import ServedSampler

PROMPTS = [[{"role": "user", "content": str(number)}] for number in range(6)]


class FakeGateway(EngineClient):
    """Answers when all the requests it is to see at once are there."""

    def __init__(self, at_once: int) -> None:
        super().__init__("http://127.0.0.1:1")
        self.at_once = at_once
        self.seeds: list[int] = []
        self.top_ps: set[float] = set()
        self.in_flight = self.most_in_flight = 0

    async def chat(self, model: str, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[Sample]:
        self.seeds.append(options["seed"])
        self.top_ps.add(options["top_p"])
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(0)  # every request that may be in flight at once is
        while len(self.seeds) < self.at_once:
            await asyncio.sleep(0)
        self.in_flight -= 1
        return [Sample([1], [2], messages[0]["content"], [-0.1], [], "stop")]

    async def render(self, model: str, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        if messages[0]["role"] == "system":
            refusal = EngineError("POST /tokenize answered 400: System role not supported")
            refusal.upstream_status = 400
            raise refusal
        return [1]


class Told:
    """Keeps what is reported, and cancels when it is told to."""

    def __init__(self) -> None:
        self.counts: list[tuple[int, int]] = []
        self.cancel_at = 10**9

    def __call__(self, done: int, of: int) -> None:
        self.counts.append((done, of))
        if done == self.cancel_at:
            raise JobCancelledError


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def sampler(tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServedSampler]:
    monkeypatch.setattr("workers.sampling.served.EngineClient", lambda *_, **__: FakeGateway(at_once=9))
    with ServedSampler(RLSpec(**job_fields(tmp_path)), task_probes(2), told) as sampler:
        yield sampler


def test_batches_are_sampled_at_once_and_counted_together(sampler: ServedSampler, told: Told) -> None:
    greedy, sampled = sampler.sample_all([Batch(PROMPTS, 1, 8, 0.0, 0), Batch(PROMPTS[:3], 4, 8, 1.0, 0)])
    assert [[rollout.text for rollout in group] for group in greedy] == [[str(number)] for number in range(6)]
    assert [len(group) for group in sampled] == [4, 4, 4]
    assert told.counts == [(done, 9) for done in range(1, 10)]


def test_a_job_leaves_room_for_clients_in_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = FakeGateway(at_once=8)
    monkeypatch.setattr("workers.sampling.served.EngineClient", lambda *_, **__: gateway)
    with ServedSampler(RLSpec(**job_fields(tmp_path), sequences_at_once=8), task_probes(2)) as sampler:
        sampler.sample_all([Batch(PROMPTS, 4, 8, 1.0, 0)])
        assert gateway.most_in_flight == 8


def test_no_two_completions_of_a_batch_are_drawn_with_one_seed(sampler: ServedSampler) -> None:
    sampler.sample(PROMPTS, n=4, max_tokens=8, temperature=1.0, seed=7)
    gateway = sampler._client
    assert isinstance(gateway, FakeGateway)
    assert len(set(gateway.seeds)) == len(gateway.seeds) == 24


def test_a_batch_is_sampled_from_the_share_that_it_names(sampler: ServedSampler) -> None:
    sampler.sample_all([Batch(PROMPTS, 1, 8, 1.0, 0, top_p=0.7), Batch(PROMPTS[:3], 1, 8, 1.0, 0)])
    gateway = sampler._client
    assert isinstance(gateway, FakeGateway) and gateway.top_ps == {0.7, 1.0}


def test_a_cancelled_job_stops_sampling(sampler: ServedSampler, told: Told) -> None:
    told.cancel_at = 2
    with pytest.raises(JobCancelledError):
        sampler.sample_all([Batch(PROMPTS, 1, 8, 0.0, 0), Batch(PROMPTS[:3], 1, 8, 0.0, 0)])


def test_a_chat_that_the_template_refuses_is_named_by_its_place_and_roles(sampler: ServedSampler) -> None:
    plain = [Problem([{"role": "user", "content": "?"}], "1", place=f"maths.jsonl, line {line}") for line in (1, 2)]
    sampler.check_chats(plain)
    strict = Problem(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "?"}], "1", place="maths.jsonl, line 3"
    )
    with pytest.raises(
        BadInputError, match=r"line 3: .* refuses a chat of the roles system, user: .*System role"
    ) as raised:
        sampler.check_chats([*plain, strict])
    assert raised.value.param == "policy.chat_template"
