"""Jobs of RL, one after the other: each goes on where the one before stopped."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from reheatd.adapters.store import MOMENTS_FILE
from reheatd.errors import AdapterInvalidError
from reheatd.jobs.contracts import JobStatus, RLRequest, RLSpec
from reheatd.options import LoraOptions
from reheatd.task_data import Problem
from tests.unit.control_figures import BASELINE, entropy
from tests.unit.control_support import REHEAT, World, live
from tests.unit.workers_support import NumberCodec, SilentProgress, job_fields, number_prompts, tiny_model
from workers.checkpoint import Checkpoints
from workers.grpo import Grpo, RLOutcome
from workers.policy import Policy
from workers.progress import JobCancelledError
from workers.rewards.scoring import InProcessScorer
from workers.sampling.in_process import InProcessSampler

LORA = LoraOptions(rank=4, alpha=8)
PROBLEMS = [Problem(messages, str(number)) for number, messages in enumerate(number_prompts(40))]
FIELDS: dict[str, Any] = {"prompts_per_step": 4, "max_tokens": 8, "learning_rate": 0.01, "warmup_steps": 2}


class Seen(InProcessScorer):
    """Rewards even tokens, and keeps which problems it was asked about."""

    def __init__(self) -> None:
        super().__init__(self._score)
        self.problems: set[str] = set()

    def _score(self, completion: str, answer: str) -> float:
        self.problems.add(answer)
        tokens = [int(part) for part in completion.split()]
        return float(sum(token % 2 == 0 for token in tokens) > len(tokens) / 2)


class CancelledAt(SilentProgress):
    """Ends the job as a worker's death would, after the checkpoint of a step."""

    def __init__(self, step: int | None) -> None:
        super().__init__()
        self._step = step

    def report(self, phase: str, step: int, metrics: dict[str, float] | None = None) -> None:
        super().report(phase, step, metrics)
        if phase == "training" and step == self._step:
            raise JobCancelledError


class Run:
    """A job on the tiny policy, as a worker runs it."""

    def __init__(
        self,
        spec: RLSpec,
        problems: Sequence[Problem] = PROBLEMS,
        lora: LoraOptions = LORA,
        killed_at: int | None = None,
    ) -> None:
        self.spec = spec
        model = tiny_model()
        model.config.save_pretrained(spec.model_path)  # peft looks for it when it saves or loads an adapter
        self.policy = Policy.on_model(model, None, lora, spec.parent_adapter)
        self.scorer, self.progress = Seen(), CancelledAt(killed_at)
        sampler = InProcessSampler(self.policy, NumberCodec(), number_prompts(4), probe_tokens=4)
        checkpoints = Checkpoints(spec)
        self.grpo = Grpo(self.policy, spec, sampler, problems, self.scorer, self.progress, checkpoints)

    def outcome(self) -> RLOutcome:
        outcome = self.grpo.run()
        self.adapter = self.spec.output_dir / "result"
        self.policy.save(self.adapter, self.spec.model_path)
        self.grpo.save_optimizer(self.adapter)
        return outcome

    @property
    def weights(self) -> list[torch.Tensor]:
        return [weight.detach() for weight in self.policy.parameters()]

    @property
    def grad_norms(self) -> list[float]:
        return [metrics["grad_norm"] for phase, _, metrics in self.progress.reports if phase == "training"]


def spec_in(folder: Path, steps: int, **fields: Any) -> RLSpec:
    folder.mkdir(exist_ok=True)
    values: dict[str, Any] = {**job_fields(folder), "model_path": folder.parent, **FIELDS, "steps": steps, **fields}
    return RLSpec(**values)


def test_two_jobs_end_with_the_same_bits_as_one(tmp_path: Path) -> None:
    whole = Run(spec_in(tmp_path / "whole", 6))
    all_of_it = whole.outcome()
    first = Run(spec_in(tmp_path / "first", 3))
    part = first.outcome()
    following: dict[str, Any] = {"parent_adapter": first.adapter, "places": [part.place]}
    second = Run(spec_in(tmp_path / "second", 3, **following))
    rest = second.outcome()
    assert first.grad_norms + second.grad_norms == whole.grad_norms
    assert all(torch.equal(one, other) for one, other in zip(second.weights, whole.weights, strict=True))
    assert rest.place == all_of_it.place
    assert (part.updates, rest.updates, all_of_it.updates) == (3, 3, 6)


def test_a_job_that_is_resumed_goes_on_in_the_middle_and_does_not_advance_twice(tmp_path: Path) -> None:
    first = Run(spec_in(tmp_path / "first", 2))
    place = first.outcome().place
    following: dict[str, Any] = {"parent_adapter": first.adapter, "places": [place]}
    whole = Run(spec_in(tmp_path / "whole", 4, minibatches=2, **following))
    all_of_it = whole.outcome()
    spec = spec_in(tmp_path / "killed", 4, minibatches=2, **following)
    with pytest.raises(JobCancelledError):
        Run(spec, killed_at=2).outcome()
    resumed = Run(spec)
    rest = resumed.outcome()
    assert (rest.place, rest.updates) == (all_of_it.place, all_of_it.updates) and rest.updates == 8
    assert all(torch.equal(one, other) for one, other in zip(resumed.weights, whole.weights, strict=True))


def learning_rates(run: Run) -> list[float]:
    run.outcome()
    return [group["lr"] for group in run.grpo._learner.optimizer.param_groups]


def test_the_warm_up_is_not_taken_again_unless_the_weights_were_changed(tmp_path: Path) -> None:
    first = Run(spec_in(tmp_path / "first", 2))
    assert learning_rates(first) == [0.01]
    assert learning_rates(Run(spec_in(tmp_path / "next", 1, parent_adapter=first.adapter))) == [0.01]
    # A reheat leaves no moments beside its version.
    (first.adapter / MOMENTS_FILE).unlink()
    assert learning_rates(Run(spec_in(tmp_path / "reheated", 1, parent_adapter=first.adapter))) == [0.01 / 2]


def test_moments_of_another_shape_are_not_used_and_damaged_ones_are_named(tmp_path: Path) -> None:
    narrow = Run(spec_in(tmp_path / "narrow", 1), lora=LoraOptions(rank=2, alpha=4))
    wide = Run(spec_in(tmp_path / "wide", 1))
    for run in (narrow, wide):
        run.outcome()
    file = wide.adapter / MOMENTS_FILE
    file.write_bytes((narrow.adapter / MOMENTS_FILE).read_bytes())
    assert learning_rates(Run(spec_in(tmp_path / "next", 1, parent_adapter=wide.adapter))) == [0.01 / 2]
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(AdapterInvalidError, match=str(file)):
        Run(spec_in(tmp_path / "after", 1, parent_adapter=wide.adapter)).outcome()


@pytest.mark.usefixtures("impatient")
def test_jobs_of_one_daemon_see_disjoint_problems_whatever_came_between(tmp_path: Path) -> None:
    seen: list[set[str]] = []

    async def reinforce(world: World, status: JobStatus, seed: int) -> None:
        job = world.controller.submit(RLRequest(steps=2, prompts_per_step=3, max_resamples=0, seed=seed))
        spec = await world.until_submitted(len(world.dispatcher.submitted) + 1)
        assert isinstance(spec, RLSpec)
        spec.parent_adapter = None  # the adapters of this daemon's versions are stand-ins
        # Another path, other lines in another order: the problems are the same.
        run = Run(spec, [*reversed(PROBLEMS)] if seen else PROBLEMS)
        outcome = await asyncio.to_thread(run.outcome)
        seen.append(run.scorer.problems)
        world.monitor.entropies["policy-v1"] = entropy((0.1 if status is JobStatus.REJECTED else 1) * BASELINE)
        await world.train(spec, place=outcome.place, updates=outcome.updates)
        await world.until_status(job.job_id, status)

    async def story(world: World) -> None:
        await reinforce(world, JobStatus.REJECTED, seed=0)
        reheat = world.controller.submit(REHEAT)
        await world.train(await world.until_submitted(2))
        await world.until_status(reheat.job_id, JobStatus.SUCCEEDED)
        await world.restart()
        await reinforce(world, JobStatus.SUCCEEDED, seed=5)
        await reinforce(world, JobStatus.SUCCEEDED, seed=0)

    live(World(tmp_path, rl={"max_tokens": 48}), story)
    assert [len(problems) for problems in seen] == [6, 6, 6]
    assert len(set.union(*seen)) == 18
