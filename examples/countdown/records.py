"""What is kept of the experiment's runs. It imports no torch, so that outcomes are read without it."""

from typing import Literal

from pydantic import Field

from reheatd.entropy.regime import SignalStep
from reheatd.measures import Contract
from reheatd.options import Remedy

Stage = Literal["collapse", "decision", "arm", "cascade"]


class Measured(Contract):
    """Measurements of a policy on held-out problems."""

    samples: int
    """Completions sampled until then, since the run began."""
    pass1: float
    pass16: float
    greedy: float
    nucleus: float
    """Mean accuracy of 8 answers from the nucleus of 0.7."""
    entropy: float
    """Exact entropy over the states that the policy visits, in nats per token."""
    kept: float
    """pass@1 on held-out problems of the family that the policy collapsed on."""


class Step(Contract):
    """One step of RL, as its own rollouts show it."""

    samples: int
    """Completions sampled until its end, since the run began, with everything that was sampled besides."""
    reward: float
    """Mean reward of its rollouts."""
    groups: int
    varied: int
    """Groups whose rewards differ; with none, the step changes nothing."""
    all_fail: int
    all_pass: int

    @property
    def signal(self) -> SignalStep:
        varied, all_fail, all_pass = (count / self.groups for count in (self.varied, self.all_fail, self.all_pass))
        return SignalStep(varied=varied, all_fail=all_fail, all_pass=all_pass, groups=self.groups)


class Treated(Contract):
    """One use of a remedy."""

    remedy: Remedy
    """The remedy; for `auto`, the one that was chosen."""
    refused: str | None = None
    """Why it could not be applied, which leaves the policy as it was; None if it was."""
    samples: int
    """Completions that it sampled, the measurement of entropy before it included."""
    entropy_before: float
    """Entropy on the probes, in nats per token."""
    entropy_after: float


class Curve(Contract):
    """RL on the problems of one family, with the remedies before it and in between."""

    points: list[Measured]
    steps: list[Step]
    treated: list[Treated] = Field(default_factory=list)


class Record(Contract):
    """What is kept of a run."""

    curves: list[Curve]
    """One, but for a cascade, which has one for every shift."""
    base: Measured | None = None
    """The pretrained policy, measured on the problems of the decision."""
    cpu_seconds: float
    """Processor time of the run, for planning."""

    @property
    def curve(self) -> Curve:
        """The curve of a run that is no cascade."""
        (curve,) = self.curves
        return curve
