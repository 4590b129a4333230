"""Remedies in process, as a job of the daemon applies them; all that they sample is counted."""

from collections.abc import Sequence
from typing import NamedTuple

from examples.countdown.arms import Arm, RemedySizes, RLShape, job_fields
from examples.countdown.measuring import CountedSampler
from examples.countdown.records import Treated
from examples.countdown.task import COMPLETION_TOKENS, reward
from reheatd.errors import BadInputError
from reheatd.jobs.contracts import ReheatSpec
from reheatd.options import Remedy, RLOptions
from reheatd.task_data import Problem
from workers.candidates import Candidate, make_candidates
from workers.policy import Policy, Weights
from workers.remedies import make_trainer
from workers.rewards.scoring import InProcessScorer
from workers.sampling.seeds import seed_for
from workers.signal_meter import SignalMeter


class Made(NamedTuple):
    """What a remedy made of a policy."""

    remedy: Remedy
    entropy: float
    """On the probes, in nats per token."""
    weights: Weights


class Silent:
    """A `Progress` for training whose steps are no steps of the experiment's own RL."""

    def report(self, phase: str, step: int, metrics: dict[str, float] | None = None) -> None:
        pass


def treat(
    arm: Arm,
    policy: Policy,
    sampler: CountedSampler,
    pool: Sequence[Problem],
    shape: RLShape,
    sizes: RemedySizes,
    seed: int,
) -> list[Treated]:
    """Applies the arm's remedy to the policy; nothing if it has none.

    Args:
        pool: Problems at hand.
        shape: The RL of the remedies that are RL.
    """
    if arm.remedy is None:
        return []
    start, parent = sampler.samples, policy.weights()
    before = sampler.measure_entropy(seed_for("probes", seed, 0))
    spec = ReheatSpec(
        **job_fields(seed),
        **arm.reheat,
        remedy=arm.remedy,
        target_entropy=arm.ratio * before.mean,
        parent_entropy=before,
        steps=sizes.steps,
        prompts_per_step=sizes.prompts,
        max_tokens=COMPLETION_TOKENS,
        signal_problems=sizes.signal_problems,
        signal_samples=sizes.signal_samples,
        rl=RLOptions(**shape.options(steps=sizes.rl_steps)),
    )
    refused = None
    try:
        made = take_best(policy, spec, sampler, pool) if arm.remedy == "auto" else make(policy, spec, sampler, pool)
    except BadInputError as error:  # the daemon fails the job, and RL goes on with the policy as it was
        made, refused = Made(arm.remedy, before.mean, parent), error.message
    policy.set_weights(made.weights)
    sampler.publish(policy, 0)
    return [
        Treated(
            remedy=made.remedy,
            refused=refused,
            samples=sampler.samples - start,
            entropy_before=before.mean,
            entropy_after=made.entropy,
        )
    ]


def make(policy: Policy, spec: ReheatSpec, sampler: CountedSampler, pool: Sequence[Problem]) -> Made:
    """Applies a single remedy to the policy."""
    outcome = make_trainer(policy, spec, sampler, pool, InProcessScorer(reward), Silent()).run()
    return Made(spec.remedy, outcome.entropy_after.mean, policy.weights())


def take_best(policy: Policy, spec: ReheatSpec, sampler: CountedSampler, pool: Sequence[Problem]) -> Made:
    """Makes the candidates of `auto`, and returns the best one."""
    parent = policy.weights()
    meter = SignalMeter(spec, sampler, pool, InProcessScorer(reward), Silent())

    def candidate(remedy: Remedy) -> Candidate[Made]:
        policy.set_weights(parent)
        sampler.publish(policy, 0)
        made = make(policy, spec.model_copy(update={"remedy": remedy}), sampler, pool)
        return Candidate(remedy, made, meter.measure())

    return make_candidates(meter.before, candidate)[0].made
