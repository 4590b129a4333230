"""A batch that is collected in the background, through the gateway: how it is handed over, and how it ends."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from reheatd.engine.client import EngineClient, Sample
from reheatd.errors import EngineError, TrainingDivergedError
from reheatd.jobs.contracts import RLSpec
from reheatd.task_data import Problem
from tests.probes import task_probes
from tests.unit.workers_support import SilentProgress, job_fields
from tests.waiting import HANGS_S, wait_until
from workers.progress import JobCancelledError
from workers.rewards.scoring import InProcessScorer
from workers.sampling import served
from workers.sampling.groups import GroupCollector
from workers.sampling.groups_ahead import GroupsAhead
from workers.sampling.rollout import Batch
from workers.sampling.served import ServedSampler

PROBLEMS = [Problem([{"role": "user", "content": str(number)}], str(number)) for number in range(12)]


COMPLETIONS = 16
"""Of four problems, which is what a batch has by default."""


class SlowGateway(EngineClient):
    """Answers only once it is let."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1")
        self.answers = threading.Event()
        self.error: EngineError | None = None
        self.asked = self.dropped = 0

    async def chat(self, model: str, messages: Sequence[Mapping[str, Any]], **options: Any) -> list[Sample]:
        self.asked += 1
        try:
            while not self.answers.is_set():
                await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            self.dropped += 1
            raise
        if self.error is not None:
            raise self.error
        return [Sample([1], [2], str(options["seed"] % 4), [-0.1], [], "stop")]


class World:
    """What collects batches of four problems, as in a job."""

    def __init__(self, sampler: ServedSampler, gateway: SlowGateway, spec: RLSpec) -> None:
        self.sampler, self.gateway, self.progress = sampler, gateway, SilentProgress()
        scorer = InProcessScorer(lambda completion, _: float(completion))
        self.groups = GroupCollector(spec, sampler, PROBLEMS, scorer, self.progress)

    def ahead(self) -> GroupsAhead:
        return GroupsAhead(self.groups, self.sampler, self.progress)


Waiting = Callable[[], None]


@pytest.fixture
def cancelled() -> threading.Event:
    return threading.Event()


@pytest.fixture
def world(tmp_path: Path, cancelled: threading.Event, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    def look_up() -> None:
        if cancelled.is_set():
            raise JobCancelledError

    gateway = SlowGateway()
    monkeypatch.setattr(served, "EngineClient", lambda *_, **__: gateway)
    monkeypatch.setattr(served, "LOOK_UP_S", 0.01)
    spec = RLSpec(**job_fields(tmp_path), max_tokens=48)
    with ServedSampler(spec, task_probes(2), on_wait=look_up) as sampler:
        yield World(sampler, gateway, spec)
    assert gateway.dropped == gateway.asked or gateway.answers.is_set(), "requests go on after the job's end"


def test_a_batch_that_was_begun_is_the_next_one(world: World) -> None:
    with world.ahead() as batches:
        batches.begin(1)
        wait_until(lambda: world.gateway.asked == COMPLETIONS)
        world.progress.report("training", 1)
        threading.Timer(0.05, world.gateway.answers.set).start()
        first = batches.take(1)
        batches.begin(2)
        second = batches.take(2)
        third = batches.take(3)  # nobody began it
    assert [batch.place.drawn for batch in (first, second, third)] == [4, 8, 12]
    assert [len(batch.scored) for batch in (first, second, third)] == [16, 16, 16]
    # While training waits for it, the job's phase is again that of the batch.
    reports = [report[:2] for report in world.progress.reports]
    assert reports[:4] == [("sampling", 1), ("training", 1), ("sampling", 1), ("scoring", 1)]


def test_an_error_while_a_step_trains_stops_the_sampling_at_once(world: World) -> None:
    with pytest.raises(TrainingDivergedError), world.ahead() as batches:
        batches.begin(1)
        wait_until(lambda: world.gateway.asked == COMPLETIONS)
        raise TrainingDivergedError("the gradient norm is nan")
    wait_until(lambda: world.gateway.dropped == COMPLETIONS)
    # Whoever comes next, as another remedy does, can sample.
    world.gateway.answers.set()
    batch = Batch([problem.messages for problem in PROBLEMS[:2]], 1, 8, 1.0, 0)
    assert len(world.sampler.sample_all([batch])[0]) == 2


def test_a_cancelled_job_does_not_wait_for_its_rollouts(world: World, cancelled: threading.Event) -> None:
    with pytest.raises(JobCancelledError), world.ahead() as batches:
        batches.begin(1)
        wait_until(lambda: world.gateway.asked == COMPLETIONS)
        cancelled.set()
        batches.take(1)
    wait_until(lambda: world.gateway.dropped == COMPLETIONS)


def test_an_error_of_the_engine_is_raised_where_the_batch_is_taken(world: World) -> None:
    world.gateway.error = EngineError("the model is unknown")
    world.gateway.error.upstream_status = 404
    world.gateway.answers.set()
    with pytest.raises(EngineError, match="the model is unknown"), world.ahead() as batches:
        batches.begin(1)
        batches.take(1)


def test_scoring_in_the_background_ends_before_the_job_goes_on(world: World) -> None:
    """A reward that is being computed cannot be interrupted, and its result is dropped."""
    scoring, let = threading.Event(), threading.Event()

    def slow(completion: str, answer: str) -> float:
        scoring.set()
        assert let.wait(HANGS_S)
        return float(completion)

    world.gateway.answers.set()
    world.groups = GroupCollector(
        RLSpec(**job_fields(Path()), max_tokens=48), world.sampler, PROBLEMS, InProcessScorer(slow), world.progress
    )
    with pytest.raises(TrainingDivergedError), world.ahead() as batches:
        batches.begin(1)
        assert scoring.wait(HANGS_S)
        threading.Timer(0.05, let.set).start()
        raise TrainingDivergedError("the gradient norm is nan")
    assert let.is_set()
    assert [phase for phase, *_ in world.progress.reports] == ["sampling", "scoring"]
