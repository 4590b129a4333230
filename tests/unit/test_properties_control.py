"""The control loop under any order of requests, verdicts, reports, faults and crashes: its record stays legal."""

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from reheatd.control import training, waiting
from reheatd.control.states import IDLE, STATUS_TRANSITIONS, TRANSITIONS, State
from reheatd.errors import DeliveryError, EngineUnavailableError, ReheatdError
from reheatd.jobs.contracts import JobEvent, JobStatus, ReheatRequest, RLRequest
from reheatd.jobs.store import ACTIVE
from tests.unit.control_figures import BASELINE, accuracy, entropy
from tests.unit.control_support import World, lost
from tests.unit.properties import tries

SETTLE = 40
"""Turns of the event loop after which a controller that has nothing to wait for has done what it can."""


class ControlMachine(RuleBasedStateMachine):
    """A controller on a durable ledger and store; the worker, the engine and the monitor are played."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.statuses: dict[str, JobStatus] = {}
        self.seen = 0
        self.patches = pytest.MonkeyPatch()
        for module, name, value in ((waiting, "RETRY_S", 0.001), (training, "WORKER_CHECK_S", 0.001)):
            self.patches.setattr(module, name, value)
        self.patches.setattr(training, "CANCEL_GRACE_S", 0.01)

    @initialize(mode=st.sampled_from(["observe", "approve", "auto"]), rl=st.sampled_from(["off", "after_reheat"]))
    def start(self, mode: str, rl: str) -> None:
        async def make() -> World:
            world = World(self.folder, control={"mode": mode, "rl": rl, "cooldown_s": 0, "max_attempts": 2})
            world.start()
            return world

        self.world = self.loop.run_until_complete(make())

    @rule(verdict=st.sampled_from(["ok", "warning", "collapsed", "too_hot", "stalled"]))
    def measure(self, verdict: Any) -> None:
        self.act(lambda: self.world.see(verdict, 0.3 * BASELINE if verdict == "collapsed" else 0.9 * BASELINE))

    @rule(
        request=st.sampled_from(
            [
                ReheatRequest(tau=1.5, force=True),
                ReheatRequest(tau=0.5),
                ReheatRequest(remedy="shrink", towards=1, force=True),
                RLRequest(steps=2),
            ]
        )
    )
    def submit(self, request: Any) -> None:
        self.act(lambda: self.world.controller.submit(request))

    @rule(what=st.sampled_from(["cancel", "approve"]), data=st.data())
    def decide(self, what: str, data: st.DataObject) -> None:
        jobs = self.world.ledger.jobs.all()
        if jobs:
            job_id = data.draw(st.sampled_from([job.job_id for job in jobs]))
            self.act(lambda: getattr(self.world.controller, what)(job_id))

    @rule(version=st.integers(0, 4))
    def promote(self, version: int) -> None:
        self.act_async(lambda: self.world.controller.promote(version))

    @rule()
    def roll_back(self) -> None:
        self.act_async(lambda: self.world.controller.rollback())

    @rule()
    def resume(self) -> None:
        self.act(lambda: self.world.controller.resume())

    @rule(
        outcome=st.sampled_from(["started", "progress", "succeeded", "worse", "failed", "cancelled", "lost"]),
        twice=st.booleans(),
    )
    def report(self, outcome: str, twice: bool) -> None:
        """The worker of the newest job says something; what a worker says may come twice."""
        if not self.world.dispatcher.submitted:
            return
        spec = self.world.dispatcher.submitted[-1]
        job = self.world.ledger.jobs.get(spec.job_id).job
        if job.status is not JobStatus.RUNNING:
            return
        events: dict[str, Callable[[], JobEvent | ReheatdError]] = {
            "started": lambda: JobEvent(kind="started"),
            "progress": lambda: JobEvent(kind="progress", phase="training", step=1, steps=2),
            "succeeded": lambda: JobEvent(kind="succeeded", result=self.world.result(spec)),
            "worse": lambda: JobEvent(kind="succeeded", result=self.world.result(spec, accuracy_after=accuracy(2))),
            "failed": lambda: JobEvent(kind="failed", error="out of memory"),
            "cancelled": lambda: JobEvent(kind="cancelled"),
            "lost": lambda: lost(job),
        }
        repeated = twice and outcome in ("started", "progress")
        said = [events[outcome]() for _ in range(2 if repeated else 1)]
        self.act_async(lambda: self.world.dispatcher.report(spec.job_id, *said))

    @rule(version=st.integers(1, 4), share=st.sampled_from([0.3, 0.85, 3.0]))
    def entropy_of_a_version(self, version: int, share: float) -> None:
        self.world.monitor.entropies[f"policy-v{version}"] = entropy(share * BASELINE)

    @rule(what=st.sampled_from(["engine", "delivery", "after flip", "monitor", "broker"]))
    def fault(self, what: str) -> None:
        away = EngineUnavailableError("the engine is away")
        world = self.world
        places: dict[str, tuple[list[ReheatdError], ReheatdError]] = {
            "engine": (world.swaps.failures, away),
            "delivery": (world.swaps.failures, DeliveryError("another adapter answers")),
            "after flip": (world.swaps.failures_after_flip, away),
            "monitor": (world.monitor.failures, away),
            "broker": (world.dispatcher.failures, EngineUnavailableError("the broker is away")),
        }
        if what != "broker":
            failures, error = places[what]
            failures.append(error)

    @rule()
    def crash(self) -> None:
        self.loop.run_until_complete(self.world.restart())
        self.settle()

    @invariant()
    def the_loop_lives(self) -> None:
        task = getattr(self.world, "_task", None) if hasattr(self, "world") else None
        if task is not None and task.done():
            raise AssertionError("the control loop ended") from task.exception()

    @invariant()
    def the_record_is_legal(self) -> None:
        if not hasattr(self, "world"):
            return
        ledger = self.world.ledger
        state = State.SERVING
        for entry in ledger.entries(10_000):
            assert entry.from_state is state, entry
            if entry.event == "transition":
                assert entry.to_state in TRANSITIONS[state], entry
                state = entry.to_state
        jobs = ledger.jobs.all()
        active = [job for job in jobs if job.status in ACTIVE]
        assert len(active) <= 1
        assert state not in IDLE or not active
        for job in jobs:
            before = self.statuses.get(job.job_id)
            if before is not None and before.is_final:
                assert job.status is before, job
            assert job.status.is_final == (job.finished_at is not None), job
            if job.status is JobStatus.SUCCEEDED:
                assert job.version is not None and job.version in self.world.store.versions()
            self.statuses[job.job_id] = job.status
        promoted = [entry.version for entry in ledger.entries(10_000) if entry.event == "promoted"]
        assert not promoted or state is State.SWAPPING or self.world.store.promoted() == promoted[-1]

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.loop.run_until_complete(self.world.crash())
        self.loop.close()
        self.patches.undo()
        shutil.rmtree(self.folder)

    def act(self, action: Callable[[], object]) -> None:
        """Asks the controller for something. It may refuse by an error of reheatd, and by no other."""

        async def run() -> None:
            action()

        self.act_async(run)

    def act_async(self, action: Callable[[], Coroutine[Any, Any, object]]) -> None:
        async def run() -> None:
            try:
                await action()
            except ReheatdError as error:
                assert error.status < 500 or isinstance(error, EngineUnavailableError | DeliveryError), error

        self.loop.run_until_complete(run())
        self.settle()

    def settle(self) -> None:
        async def run() -> None:
            for _ in range(SETTLE):
                await asyncio.sleep(0)
            await asyncio.sleep(0.005)

        self.loop.run_until_complete(run())


assert STATUS_TRANSITIONS.keys() == {status for status in JobStatus if not status.is_final}
TestControl = ControlMachine.TestCase
TestControl.settings = tries(5, stateful_step_count=15)
