"""The learning signal of RL in process: every step is kept, and the daemon's rule says when the run has stalled."""

from examples.countdown.measuring import CountedSampler, HeldOut
from examples.countdown.records import Measured, Step
from reheatd.config_tables import EntropySection
from reheatd.entropy.regime import SignalStep, stays_stalled
from workers.policy import Policy


class StalledError(Exception):
    """The daemon's rule calls the run of RL stalled. `Watch.report` raises it, so that training ends."""


class Watch:
    """A `Progress` that keeps every step of RL, and measures the policy every `measure_every` completions.

    Args:
        held_out: Problems that the policy is measured on.
        measure_every: Completions between two measurements; None measures only when asked.
        rule: Thresholds of `stalled`; with them, the run is ended by a `StalledError` once it has stalled.
    """

    def __init__(
        self,
        policy: Policy,
        sampler: CountedSampler,
        held_out: HeldOut,
        *,
        measure_every: int | None = None,
        rule: EntropySection | None = None,
    ) -> None:
        self.steps: list[Step] = []
        self.points: list[Measured] = []
        self._policy = policy
        self._sampler = sampler
        self._held_out = held_out
        self._measure_every = measure_every
        self._rule = rule
        self._run: list[SignalStep] = []
        """Steps since the last remedy."""
        self._stalled = False

    def report(self, phase: str, step: int, metrics: dict[str, float] | None = None) -> None:
        if phase != "training" or metrics is None:
            return
        self.steps.append(
            Step(
                samples=self._sampler.samples,
                reward=metrics["reward"],
                groups=int(metrics["groups"]),
                varied=int(metrics["groups_varied"]),
                all_fail=int(metrics["groups_all_fail"]),
                all_pass=int(metrics["groups_all_pass"]),
            )
        )
        if self._measure_every and self._sampler.samples >= len(self.points) * self._measure_every:
            self.measure()
        if self._rule is not None:
            self._run.append(self.steps[-1].signal)
            newest = self._run[-self._rule.stall_steps :]
            self._stalled = stays_stalled(self._stalled, newest, self._rule)
            if self._stalled:
                raise StalledError

    def measure(self) -> None:
        self.points.append(self._held_out.measure(self._policy, self._sampler.samples))

    def begin_run(self) -> None:
        """A remedy begins a new run: what came before it says nothing about it."""
        self._run, self._stalled = [], False
