"""What the steps of `bench.gpu_check` share: what they are given, and what is asked of their figures."""

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.swap_pace import Pace
from reheatd.engine.launch import Device

Figures = dict[str, float]
EXACTLY_NONE = (0.0, 0.0)
SOME = (1e-12, math.inf)


@dataclass(frozen=True)
class Size:
    """How much the steps compute."""

    loss: tuple[int, int, int]
    """Tokens, hidden size and vocabulary of the losses that are compared with float64 on the CPU."""
    lengths: tuple[int, ...]
    """Tokens of the completions whose gradients are compared."""
    prompts: int
    """Prompts of a training step, and probes."""
    group_size: int
    """Rollouts per prompt of RL."""
    max_tokens: int
    """Tokens of the longest rollout."""
    long_tokens: tuple[int, int]
    """Tokens of prompts and of answers in the step whose memory is planned."""
    speed: tuple[int, int]
    """Tokens and hidden size of the losses whose speed is compared."""
    vocabularies: tuple[int, ...]
    """Vocabularies for which the speed of the loss is compared."""
    pace: Pace


FULL = Size(
    loss=(600, 256, 151_936),  # two chunks on a GPU
    lengths=(600, 250, 240, 90, 40, 20, 20, 1),
    prompts=16,
    group_size=8,
    max_tokens=64,
    long_tokens=(512, 3584),
    speed=(1024, 1024),
    vocabularies=(49_152, 151_936),
    pace=Pace(swaps=6, blocks=2, streams=4, control_s=2.0, swap_every_s=1.0, settle_s=2.0),
)
TOY = Size(
    loss=(32, 16, 320),
    lengths=(40, 9, 8, 1),
    prompts=4,
    group_size=4,
    max_tokens=8,
    long_tokens=(32, 32),
    speed=(32, 16),
    vocabularies=(320,),
    pace=Pace(swaps=2, blocks=1, streams=2, control_s=0.5, swap_every_s=0.2, settle_s=0.2),
)
SIZES = {"full": FULL, "toy": TOY}


@dataclass(frozen=True)
class Check:
    """What a step runs on."""

    device: Device
    model: str
    """Folder of the policy."""
    size_name: str
    folder: str
    """Where the step may write."""

    @property
    def size(self) -> Size:
        return SIZES[self.size_name]

    @property
    def policy(self) -> Path:
        return Path(self.model)

    @property
    def scratch(self) -> Path:
        return Path(self.folder)


@dataclass(frozen=True)
class Step:
    """A named step."""

    name: str
    function: str
    """Module and name of a function that takes a `Check` and returns its figures. It is imported where it runs, so that
    what is missing can be told before anything of it is imported."""
    limit_s: float
    """Time after which it has failed."""
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict[str, tuple[float, float]])
    """The least and the largest value of figures that have to be within them."""
    needs: tuple[str, ...] = ("torch", "transformers", "peft")
    """Packages that are imported."""

    def load(self) -> Callable[[Check], Figures]:
        module, _, name = self.function.partition(":")
        return getattr(importlib.import_module(module), name)

    def fault(self, figures: Figures) -> str | None:
        """What is wrong with the figures, in one line; None if nothing is."""
        for name, (least, most) in self.bounds.items():
            if name not in figures:
                return f"{name} was not measured"
            if not least <= figures[name] <= most:
                return f"{name} is {figures[name]:.4g}, which is {_beyond(least, most)}"
        return next((f"{name} is {value}" for name, value in figures.items() if not math.isfinite(value)), None)


def _beyond(least: float, most: float) -> str:
    if least == most:
        return f"not {most:g}"
    return f"not at most {most:g}" if least == -math.inf else f"not from {least:g} to {most:g}"


def at_most(limit: float) -> tuple[float, float]:
    """Bounds of a figure that no value is too small for."""
    return -math.inf, limit
