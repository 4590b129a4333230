"""Takes a policy back towards its base, without training: its LoRA is scaled down until entropy is at the target.

    W = W_base + f * s * B A        0 < f < 1

B is multiplied by the factor f, so f = 1 is the policy as it is and f = 0 the base. A LoRA that was trained from the
base holds everything that training changed. Scaling it is the interpolation of weights of WiSE-FT (arXiv 2109.01903).
With `towards`, the other end is an earlier version instead of the base, and A and B are interpolated one by one.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from reheatd.errors import BadInputError
from reheatd.jobs.contracts import ReheatSpec
from reheatd.measures import EntropyEstimate
from workers.policy import Policy, Weights
from workers.progress import Progress
from workers.sampling.rollout import Sampler, parent_entropy
from workers.sampling.seeds import seed_for
from workers.target import Target

HALVINGS = 7
"""Number of factors that are measured, at most."""


@dataclass(frozen=True)
class ShrinkOutcome:
    steps: int
    """Number of factors that were measured."""
    factor: float
    """Share of the way from the other end that is left."""
    entropy_before: EntropyEstimate
    entropy_after: EntropyEstimate
    stopped: str = "target"


class Shrinker:
    """Finds the factor at which the entropy on the probes is inside the target, by halving the way."""

    def __init__(self, policy: Policy, spec: ReheatSpec, sampler: Sampler, progress: Progress) -> None:
        if spec.target_entropy is None:
            raise BadInputError(
                "shrinking needs a target entropy, because nothing else ends it", param="target_entropy"
            )
        self._policy = policy
        self._spec = spec
        self._sampler = sampler
        self._progress = progress
        self._target = Target(spec.target_entropy, upwards=True)

    def run(self) -> ShrinkOutcome:
        """Shrinks the student into the target; the sampler then serves it.

        All factors are measured with the same random numbers, so that they differ by their weights alone.

        Raises:
            BadInputError: The policy is at the target or beyond it already, the other end does not reach it, or a
                version cannot be interpolated with this one.
        """
        policy, spec, target = self._policy, self._spec, self._target
        before = parent_entropy(spec, self._sampler, self._progress)
        if before.mean >= target.low:
            raise BadInputError(
                f"the policy's entropy of {before.mean:.3f} nats per token has reached the target of "
                f"{target.entropy:.3f} already, and shrinking only raises it; choose a higher target",
                param="target_entropy",
            )
        here, there = policy.weights(), self._other_end(spec.towards_adapter)
        short, far = 1.0, 0.0
        for number in range(1, HALVINGS + 1):
            factor = (short + far) / 2
            policy.set_weights([torch.lerp(b, a, factor) for a, b in zip(here, there, strict=True)])
            self._sampler.publish(policy, number)
            found = target.measure(lambda window, number=number: self._window(number, window))
            self._progress.report("training", number, {"factor": factor, "probe_entropy": found.mean})
            if target.is_inside(found.mean):
                return ShrinkOutcome(number, factor, before, found)
            if target.is_beyond(found.mean):
                far = factor
            else:
                short = factor
        raise BadInputError(
            f"no factor between {far:.3f} and {short:.3f} brings the policy to the target of {target.entropy:.3f} nats "
            "per token; choose a lower target or another remedy",
            param="target_entropy",
        )

    def _window(self, number: int, window: int) -> EntropyEstimate:
        self._progress.report("measuring", number)
        return self._sampler.measure_entropy(seed_for("probes", self._spec.seed, 0, window))

    def _other_end(self, adapter: Path | None) -> Weights:
        """The weights of an earlier version, or those with which the LoRA adds nothing to the base."""
        if adapter is not None:
            return self._policy.read_weights(adapter)
        named = self._policy.named_parameters()
        return [torch.zeros_like(w) if ".lora_B." in name else w.detach().clone() for name, w in named.items()]
