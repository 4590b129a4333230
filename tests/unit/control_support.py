"""In-memory stand-ins for what the control loop drives, so that tests can make every one of them fail."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from reheatd.adapters.store import AdapterStore
from reheatd.adapters.swap import SwapResult
from reheatd.control.controller import Controller
from reheatd.control.dependencies import Dependencies, ServedPolicy
from reheatd.control.events import EventHub
from reheatd.control.ledger import Ledger
from reheatd.control.rollout_lengths import RolloutLengths
from reheatd.database import connect
from reheatd.entropy.detector import Verdict
from reheatd.entropy.estimators import SequenceTotals, TailMoments
from reheatd.entropy.learning import LearningSignal
from reheatd.entropy.meter import Measurement
from reheatd.entropy.regime import Thresholds
from reheatd.entropy.windows import LiveWindow
from reheatd.errors import ConflictError, ReheatdError, WorkerLostError
from reheatd.jobs.contracts import (
    ImportSpec,
    Job,
    JobEvent,
    JobRequest,
    JobResult,
    JobStatus,
    ReheatRequest,
    TrainingSpec,
)
from reheatd.measures import EntropyEstimate
from reheatd.names import model_name
from reheatd.options import ProbeOptions
from tests.known_settings import known_settings
from tests.unit.control_figures import BASELINE, accuracy, entropy, window
from tests.waiting import until

REHEAT = ReheatRequest(tau=1.5)


class FakeSwaps:
    """Promotes in the real store; `failures` are raised, one per promotion, before the flip."""

    def __init__(self, store: AdapterStore) -> None:
        self._store = store
        self.staged: set[int] = set()
        self.failures: list[ReheatdError] = []
        self.failures_after_flip: list[ReheatdError] = []
        self.before_flip: Callable[[], Awaitable[None]] | None = None

    @property
    def promoted(self) -> int:
        return self._store.promoted()

    async def stage(self, version: int) -> str:
        self.staged.add(version)
        return model_name(version)

    async def discard(self, version: int) -> None:
        self.staged.discard(version)

    async def promote(self, version: int, *, without_engine: bool = False) -> SwapResult:
        if version == self.promoted:
            raise ConflictError(f"policy-v{version} is promoted already")
        self._store.get(version)
        if self.failures:
            self.staged.discard(version)
            raise self.failures.pop(0)
        if self.before_flip is not None:
            before_flip, self.before_flip = self.before_flip, None
            await before_flip()
        old = self.promoted
        self._store.promote(version)
        self.staged.discard(version)
        if self.failures_after_flip:
            raise self.failures_after_flip.pop(0)
        return SwapResult(old, version, 0.5, None)

    async def delete(self, version: int) -> None:
        if version in self.staged:
            raise ConflictError(f"policy-v{version} is being served")
        self._store.delete(version)

    async def rollback(self) -> SwapResult:
        previous = self._store.previous()
        if previous is None:
            raise ConflictError("nothing to roll back to")
        return await self.promote(previous)


class FakeSlots:
    def __init__(self) -> None:
        self.adapters: dict[str, Path] = {}
        self.busy: set[str] = set()

    async def load(self, name: str, path: Path) -> None:
        self.adapters[name] = path

    def is_loaded(self, name: str) -> bool:
        return name in self.adapters

    async def unload(self, name: str) -> None:
        if name in self.busy:
            raise ConflictError(f"requests are in flight on {name}")
        self.adapters.pop(name, None)


class FakeMonitor:
    """Measures what `entropies` says for a name; `failures` are raised first, one per measurement."""

    def __init__(self) -> None:
        self.verdict: Verdict | None = None
        self.max_tokens: int | None = 64
        self.is_undecided = False
        self.entropies: dict[str, EntropyEstimate] = {}
        self.failures: list[ReheatdError] = []
        self.triggered = 0
        self.adopted: list[tuple[int, float]] = []
        self.measuring = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    @property
    def thresholds(self) -> Thresholds:
        """Those of settings that call half of the baseline a collapse."""
        return Thresholds(0.5 * BASELINE, 0.6 * BASELINE, None, 0.85 * BASELINE, "50% of the baseline")

    @property
    def baseline(self) -> EntropyEstimate:
        return entropy(BASELINE)

    async def ensure_baseline(self) -> EntropyEstimate:
        return entropy(BASELINE)

    async def probe_options(self) -> ProbeOptions:
        return ProbeOptions(max_tokens=64, digest="these prompts")

    async def measure_version(self, name: str) -> Measurement:
        if self.failures:
            raise self.failures.pop(0)
        self.measuring.set()
        await self.gate.wait()
        estimate = self.entropies.get(name, entropy(0.85 * BASELINE))
        return Measurement(
            model=name,
            seed=0,
            seconds=0.0,
            estimate=estimate,
            monte_carlo=estimate,
            truncated=estimate,
            lower=estimate.low,
            upper=None,
            distinct=1.0,
            totals=SequenceTotals.of([np.ones(3)]),
            tail=TailMoments(),
        )

    def latest_estimate(self, version: int) -> EntropyEstimate | None:
        return self.entropies.get(model_name(version))

    def adopt(self, version: int, measurement: Measurement) -> None:
        self.adopted.append((version, measurement.estimate.mean))

    def trigger(self) -> None:
        self.triggered += 1


class FakeDispatcher:
    """A broker with one worker that a test plays: `report` sends an event, `lose_worker` kills it."""

    def __init__(self) -> None:
        self.submitted: list[TrainingSpec] = []
        self.imports: list[ImportSpec] = []
        self.attempts: list[int] = []
        self.cancelled: list[str] = []
        self.terminated: list[str] = []
        self.workers = 1
        self.loses_messages = 0
        """How many messages the broker loses."""
        self.failures: list[ReheatdError] = []
        self._streams: dict[str, list[JobEvent | ReheatdError]] = {}
        self._news = asyncio.Condition()

    async def submit(self, spec: TrainingSpec | ImportSpec, attempt: int = 1) -> None:
        if self.failures:
            raise self.failures.pop(0)
        if isinstance(spec, ImportSpec):
            self.imports.append(spec)
        else:
            self.submitted.append(spec)
        self.attempts.append(attempt)

    async def cancel(self, job_id: str) -> None:
        self.cancelled.append(job_id)

    async def terminate(self, job_id: str, attempt: int = 1) -> None:
        self.terminated.append(job_id)

    async def is_under_way(self, job_id: str, attempt: int) -> bool:
        if self.loses_messages > 0:
            self.loses_messages -= 1
            return False
        return True

    async def connected_workers(self) -> int:
        return self.workers

    async def close(self) -> None:
        """Nothing to close: the stand-in outlives a restart as a broker does."""

    async def report(self, job_id: str, *events: "JobEvent | ReheatdError") -> None:
        async with self._news:
            self._streams.setdefault(job_id, []).extend(events)
            self._news.notify_all()

    async def events(
        self,
        job_id: str,
        after_id: str = "0",
        *,
        attempt: int = 1,
        begun: bool = False,
        workers_since: float | None = None,
    ) -> AsyncIterator[tuple[str, JobEvent]]:
        position = int(after_id)
        stream = self._streams.setdefault(job_id, [])
        while True:
            async with self._news:
                while len(stream) <= position:
                    await self._news.wait()
            event = stream[position]
            if isinstance(event, ReheatdError):
                del stream[position]
                raise event
            position += 1
            yield str(position), event
            if event.kind in ("succeeded", "failed", "cancelled"):
                return


class World:
    """A controller and everything around it; `restart` is a crash of the daemon: what is durable stays, broker too."""

    def __init__(self, folder: Path, **sections: dict[str, Any]) -> None:
        self.folder = folder
        self.settings = known_settings(data_dir=folder, **sections)
        self.dispatcher = FakeDispatcher()
        self.policy = ServedPolicy("tiny", folder / "model", "digest", vocabulary=100)
        self.invalid: ReheatdError | None = None
        self.rollouts: list[LiveWindow] = []
        self._task: asyncio.Task[None] | None = None
        self._build()

    def _build(self) -> None:
        self.db = connect(self.settings.database_path)
        self.store = AdapterStore(self.settings.adapters_dir, self.db)
        self.swaps = FakeSwaps(self.store)
        self.slots = FakeSlots()
        self.monitor = FakeMonitor()
        self.ledger = Ledger(self.db)
        self.learning = LearningSignal(
            self.db, self.settings.entropy, lambda version: getattr(self.store.get(version).lineage, "job_id", None)
        )
        self.controller = Controller(
            Dependencies(
                settings=self.settings,
                policy=self.policy,
                gateway_url="http://127.0.0.1:8000",
                ledger=self.ledger,
                versions=self.store,
                swaps=self.swaps,
                slots=self.slots,
                monitor=self.monitor,
                learning=self.learning,
                lengths=RolloutLengths(self.db, self.policy.digest, self.settings.policy),
                dispatcher=self.dispatcher,
                on_rollouts=self.rollouts.append,
                validate=self._validate,
            )
        )
        self.events = EventHub(self.ledger, self.controller.job, lambda: (self.swaps.promoted, self.monitor.verdict))
        self.ledger.on_entry = self.events.on_entry
        self.ledger.on_job = self.events.on_job

    def _validate(self, folder: Path) -> None:
        if self.invalid is not None:
            raise self.invalid

    async def __aenter__(self) -> "World":
        self.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.crash()

    def start(self) -> None:
        self._task = asyncio.create_task(self.controller.run())

    async def crash(self) -> None:
        assert self._task is not None
        self._task.cancel()
        outcome = await asyncio.gather(self._task, return_exceptions=True)
        assert isinstance(outcome[0], asyncio.CancelledError), outcome
        self.db.close()

    async def restart(self) -> None:
        await self.crash()
        self._build()
        self.start()

    def see(self, verdict: Verdict, mean: float) -> None:
        """The monitor records a window of the promoted version."""
        self.monitor.verdict = verdict
        self.controller.on_verdict(window(self.swaps.promoted, verdict, mean))

    async def until(self, condition: Callable[[], Any]) -> Any:
        return await until(condition, lambda: f"journal: {self.states()}, {self.jobs()}")

    async def until_status(self, job_id: str, status: JobStatus) -> Job:
        await self.until(lambda: self.controller.job(job_id).status is status)
        return self.controller.job(job_id)

    async def until_submitted(self, count: int = 1) -> TrainingSpec:
        await self.until(lambda: len(self.dispatcher.submitted) >= count)
        return self.dispatcher.submitted[count - 1]

    async def train(self, spec: TrainingSpec, **result: Any) -> None:
        """The worker runs the job and reports success."""
        done = JobEvent(kind="succeeded", result=self.result(spec, **result))
        await self.dispatcher.report(spec.job_id, JobEvent(kind="started"), done)

    def result(self, spec: TrainingSpec, **changes: Any) -> JobResult:
        folder = spec.output_dir / "result"
        folder.mkdir(exist_ok=True)
        save_file({"lora_B": np.frombuffer(spec.job_id[-8:].encode(), "<f4")}, folder / "adapter_model.safetensors")
        (folder / "adapter_config.json").write_text("{}")
        values = {
            "adapter_dir": folder,
            "steps": spec.steps,
            "entropy_before": entropy(1.0),
            "entropy_after": entropy(1.7),
            "accuracy_before": accuracy(24),
            "accuracy_after": accuracy(24),
            "proof": [],
            "stopped": "target",
            "seconds": 1.0,
        }
        return JobResult.model_validate({**values, **changes})

    def states(self) -> list[str]:
        """The control states in order, `serving` first."""
        entries = self.ledger.entries(1000)
        return ["serving", *(entry.to_state for entry in entries if entry.event == "transition")]

    def promotions(self) -> list[int | None]:
        return [entry.version for entry in self.ledger.entries(1000) if entry.event == "promoted"]

    def jobs(self) -> list[tuple[str, str, str | None]]:
        return [(job.trigger, job.status.value, job.error) for job in self.ledger.jobs.all()]


def live(world: World, story: Callable[[World], Coroutine[Any, Any, None]]) -> World:
    async def run() -> None:
        async with world:
            await story(world)

    asyncio.run(run())
    return world


async def finish_one(world: World, request: JobRequest = REHEAT) -> str:
    """A user's job that goes well; its id."""
    job = world.controller.submit(request)
    await world.train(await world.until_submitted(len(world.dispatcher.submitted) + 1))
    await world.until_status(job.job_id, JobStatus.SUCCEEDED)
    return job.job_id


def lost(job: Job) -> WorkerLostError:
    return WorkerLostError(f"the worker of job {job.job_id} has been silent for 120 s")
