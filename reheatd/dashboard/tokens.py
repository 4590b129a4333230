"""Tokens of an answer with their figures, coloured by degree."""

from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal

Colour = Literal["entropy", "logprob"]
"""By what tokens are coloured: the entropy of the state, or the surprise at the token that was drawn in it."""
EDGES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.5, 2.5, 4.0)
"""Edges between the ten degrees, in nats. They are closer together below, where a collapsed policy lives."""


@dataclass(frozen=True)
class Token:
    """A token that was drawn, and the state in which it was."""

    text: str
    entropy: float
    """Estimated entropy of the next token in this state, at temperature 1, in nats."""
    logprob: float
    """Log-probability of the token in this state, at temperature 1, in nats."""
    likeliest: list[tuple[str, float]]
    """The likeliest tokens in this state and their log-probabilities."""

    def degree(self, colour: Colour) -> int:
        """From 0 to 9."""
        return degree(self.entropy if colour == "entropy" else -self.logprob)

    @property
    def shown(self) -> str:
        """The text, with a sign where a line ends, and one for a token that completes no character."""
        return self.text.replace("\n", "↵\n") or "·"

    @property
    def figures(self) -> str:
        return f"entropy {self.entropy:.3g}, log-probability {self.logprob:.3g} nats"


def degree(value: float) -> int:
    """The degree, from 0 to 9, of a figure in nats."""
    return bisect_right(EDGES, value)


def legend() -> list[tuple[int, str]]:
    """The degrees, with the figures that each stands for."""
    names = [f"below {EDGES[0]:g}", *(f"from {edge:g}" for edge in EDGES)]
    return list(enumerate(names))
