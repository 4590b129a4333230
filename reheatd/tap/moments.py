"""Sums over sequences, from which the mean entropy, its interval and its course by position are computed.

Sums can be added and subtracted. So an engine may count from its start, and a reader takes the difference to the sums
that it read last.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from reheatd.measures import EntropyEstimate, PositionMean, ratio_interval

BUCKETS = 16
"""Number of buckets of positions, by powers of two: 0, 1, 2-3, 4-7, ...; the last bucket takes the rest."""


@dataclass
class Moments:
    """Sums over G finished sequences, each of n tokens with a summed entropy of y nats."""

    sequences: int = 0
    tokens: int = 0
    squared_tokens: float = 0.0
    entropy: float = 0.0
    squared_entropy: float = 0.0
    entropy_tokens: float = 0.0
    """Sum of y n."""
    position_tokens: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    position_entropy: list[float] = field(default_factory=lambda: [0.0] * BUCKETS)

    def add(self, entropies: list[float]) -> None:
        """Adds one sequence, given the entropy of each of its tokens in nats."""
        tokens, entropy = len(entropies), sum(entropies)
        self.sequences += 1
        self.tokens += tokens
        self.squared_tokens += tokens * tokens
        self.entropy += entropy
        self.squared_entropy += entropy * entropy
        self.entropy_tokens += entropy * tokens
        for position, value in enumerate(entropies):
            index = bucket(position)
            self.position_tokens[index] += 1
            self.position_entropy[index] += value

    def __add__(self, other: "Moments") -> "Moments":
        return self._combined(other, 1)

    def __sub__(self, other: "Moments") -> "Moments":
        """The sums over what came after `other`, which these sums include."""
        return self._combined(other, -1)

    def interval(self, confidence: float) -> EntropyEstimate | None:
        """The mean per token with its interval; None if there are fewer than two sequences, or no tokens."""
        if self.sequences < 2 or not self.tokens:
            return None
        mean = self.entropy / self.tokens
        residuals = self.squared_entropy - 2 * mean * self.entropy_tokens + mean * mean * self.squared_tokens
        # Rounding may leave a tiny negative number if all sequences are alike.
        squared = max(residuals, 0.0)
        return ratio_interval(
            mean, squared_residuals=squared, tokens=self.tokens, clusters=self.sequences, confidence=confidence
        )

    def by_position(self) -> list[PositionMean]:
        """The mean of each bucket that has tokens."""
        return [
            PositionMean(position=first_position(index), tokens=tokens, mean=entropy / tokens)
            for index, (tokens, entropy) in enumerate(zip(self.position_tokens, self.position_entropy, strict=True))
            if tokens
        ]

    def _combined(self, other: "Moments", sign: int) -> "Moments":
        mine, theirs = asdict(self), asdict(other)
        sums: dict[str, Any] = {}
        for name, value in mine.items():
            if isinstance(value, list):
                sums[name] = [a + sign * b for a, b in zip(value, theirs[name], strict=True)]
            else:
                sums[name] = value + sign * theirs[name]
        return Moments(**sums)


def bucket(position: int) -> int:
    return min(position.bit_length(), BUCKETS - 1)


def first_position(index: int) -> int:
    return 1 << (index - 1) if index else 0
