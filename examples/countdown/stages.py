"""The stages of the experiment: a collapse, the decision point after it, and what the arms make of it."""

import time
from pathlib import Path

from examples.countdown.arms import ARMS
from examples.countdown.learning import StalledError
from examples.countdown.plan import Plan
from examples.countdown.policy import load_policy, pretrain
from examples.countdown.practice import Practice
from examples.countdown.records import Curve, Record, Stage
from reheatd.config_tables import EntropySection
from workers.policy import Policy

FIRST_SEED: dict[Stage, int] = {"collapse": 0, "decision": 10**6, "arm": 2 * 10**6, "cascade": 3 * 10**6}
"""Seeds of the stages lie this far apart, so that no two of them draw the same random numbers."""


class Stages:
    """Runs one seed of a plan. The folder holds the policies that the runs write and start from."""

    def __init__(self, plan: Plan, folder: Path, seed: int) -> None:
        self._plan = plan
        self._folder = folder
        self._seed = seed
        self._base = folder / f"pretrained-{seed}"

    def pretrain(self) -> None:
        """Writes the pretrained policy unless it is there already."""
        if not self._base.exists():
            pretrain(self._base, self._plan.pretraining_steps, self._seed, self._plan.layers)

    def collapse(self, name: str) -> Record:
        """RL on the pretrained policy; writes the adapter."""
        began = time.process_time()
        plan = self._plan.collapses[name]
        practice = self._practice(
            load_policy(self._base, seed=self._seed),
            plan.family,
            plan.family,
            plan.problems,
            measure_every=plan.measure_every and plan.measure_every * plan.shape.step,
        )
        practice.watch.measure()
        practice.learn(plan.shape, plan.steps * plan.shape.step, self._draws("collapse"))
        practice.watch.measure()
        practice.policy.save(self._adapter(name), self._base)
        return Record(curves=[practice.curve], cpu_seconds=time.process_time() - began)

    def decide(self, name: str) -> Record:
        """The steps of RL before the decision; writes the adapter that all arms start from."""
        began = time.process_time()
        scenario = self._plan.scenarios[name]
        practice = self._scenario_practice(name, self._load(scenario.collapse))
        window = self._plan.window * scenario.shape.step + 2 * self._plan.probes
        practice.learn(scenario.shape, window, self._draws("decision"))
        practice.watch.measure()
        practice.policy.save(self._adapter(name), self._base)
        base = practice.held_out.measure(load_policy(self._base), samples=0)
        return Record(curves=[practice.curve], base=base, cpu_seconds=time.process_time() - began)

    def arm(self, name: str, arm: str) -> Record:
        """What an arm makes of its budget, from the decision point on."""
        began = time.process_time()
        scenario, choice = self._plan.scenarios[name], ARMS[arm]
        practice = self._scenario_practice(name, self._load(name, tau=choice.fold), scenario.measure_every)
        seed = self._draws("arm")
        practice.treat(choice, scenario.shape, self._plan.remedies, seed)
        practice.watch.measure()
        left = scenario.steps * scenario.shape.step - practice.sampler.samples
        practice.learn(scenario.shape, left, seed, **choice.rl)
        practice.watch.measure()
        return Record(curves=[practice.curve], cpu_seconds=time.process_time() - began)

    def cascade(self, *, acts: bool) -> Record:
        """Shift after shift, from the collapsed policy on.

        Args:
            acts: Whether the remedy `auto` acts whenever the daemon's rule calls the run stalled.
        """
        began = time.process_time()
        cascade = self._plan.cascade
        policy = self._load(cascade.collapse)
        earlier = self._plan.collapses[cascade.collapse].family
        curves: list[Curve] = []
        rule = EntropySection(stall_steps=self._plan.window) if acts else None
        for number, family in enumerate(cascade.families):
            practice = self._practice(policy, family, earlier, cascade.problems, rule=rule)
            self._shift(practice, self._draws("cascade") + 100 * number)
            curves.append(practice.curve)
            earlier = family
        return Record(curves=curves, cpu_seconds=time.process_time() - began)

    def _shift(self, practice: Practice, seed: int) -> None:
        """One shift of the cascade, with its whole budget."""
        shape = self._plan.cascade.shape
        budget = self._plan.cascade.steps * shape.step
        practice.watch.measure()
        while (left := budget - practice.sampler.samples) >= shape.step + 2 * self._plan.probes:
            seed += 1
            try:
                practice.learn(shape, left, seed)
            except StalledError:
                practice.treat(ARMS["auto"], shape, self._plan.remedies, seed)
        practice.watch.measure()

    def _practice(
        self,
        policy: Policy,
        family: str,
        earlier: str,
        problems: int,
        *,
        measure_every: int | None = None,
        rule: EntropySection | None = None,
    ) -> Practice:
        return Practice(
            policy,
            family,
            earlier,
            problems=problems,
            probes=self._plan.probes,
            evaluation_problems=self._plan.evaluation_problems,
            seed=self._seed,
            measure_every=measure_every,
            rule=rule,
        )

    def _scenario_practice(self, name: str, policy: Policy, measure_every: int | None = None) -> Practice:
        scenario = self._plan.scenarios[name]
        return self._practice(
            policy,
            scenario.family,
            self._plan.collapses[scenario.collapse].family,
            scenario.problems,
            measure_every=measure_every and measure_every * scenario.shape.step,
        )

    def _load(self, name: str, tau: float = 1.0) -> Policy:
        """The policy behind a collapse or at a decision point."""
        return load_policy(self._base, self._adapter(name), tau=tau)

    def _adapter(self, name: str) -> Path:
        return self._folder / f"{name}-{self._seed}"

    def _draws(self, stage: Stage) -> int:
        return FIRST_SEED[stage] + 1000 * self._seed
