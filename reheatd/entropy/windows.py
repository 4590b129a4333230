"""What is measured of a policy's entropy, as it is stored and shown: windows of the probes and of what was decoded."""

import time
from typing import Literal

from pydantic import Field

from reheatd.entropy.detector import DetectorState, Verdict
from reheatd.measures import Contract, EntropyEstimate, PositionMean

Source = Literal["schedule", "trigger", "confirm", "gate"]
"""Why a window was measured: it was due (`schedule`), a swap or a user asked for it (`trigger`), the window before was
low (`confirm`), or the version had to pass its gates before it was promoted (`gate`)."""
MeasuredBy = Literal["tap", "control_variate", "monte_carlo", "plug_in"]
"""How entropy was measured. `tap`: exactly, in the engine. `control_variate`: without bias, from the top-k logprobs of
tokens drawn at temperature 1. `monte_carlo`: without bias, from the logprobs of such tokens alone. `plug_in`: with a
model of the tail, within deterministic bounds, because the tokens were drawn in another way."""


class WindowFigures(Contract):
    """Figures of one window, for which every probe was sampled once from one model. Entropies are in nats per token."""

    model: str
    """The pinned name that was sampled."""
    seed: int
    seconds: float
    """How long the measurement took."""
    estimate: EntropyEstimate
    """The control variate's estimate, on which all decisions are based."""
    monte_carlo: EntropyEstimate
    truncated: EntropyEstimate
    """The estimate from the top k alone, which is too low."""
    lower: float
    """Mean of the deterministic lower bounds on the visited states."""
    upper: float | None
    """Mean of the deterministic upper bounds; None if the vocabulary's size is not known."""
    distinct: float
    """Share of distinct answers among the samples."""
    by_position: list[PositionMean] = Field(default_factory=list)
    """The estimate by position in the answer. Empty in a window of reheatd 0.1."""


class Window(WindowFigures):
    """One measurement of a promoted version on the probes, with its verdict. Entropies are in nats per token."""

    time: float = Field(default_factory=time.time)
    version: int
    source: Source
    verdict: Verdict
    detector: DetectorState
    """The detector's state after this window."""
    baseline: float
    ratio: float
    """The estimate as a share of the baseline."""
    threshold: float
    """Entropy below which the policy has collapsed."""


class LiveWindow(Contract):
    """Entropy of the tokens that were decoded for one version and source, in nats per token, at temperature 1."""

    time: float = Field(default_factory=time.time)
    version: str
    """Name of the version, or of the job for rollouts."""
    source: str
    """Who asked: clients (`live`), the daemon's own windows (`probe`) or a training job (`rollout`)."""
    measured_by: MeasuredBy
    estimate: EntropyEstimate
    by_position: list[PositionMean]
    parent: int | None = None
    """Version that the job started from; known of rollouts that the job measured itself."""
    step: int | None = None
    """Optimiser steps that the job's student had taken; known like `parent`."""


class MeasurementProgress(Contract):
    """The progress of a measurement."""

    model: str
    done: int
    """Number of probes that are answered."""
    of: int
    """Number of probes in all."""
