"""The figures that are measured of a policy, each with its interval: the vocabulary that all parts share."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, model_validator

BaselineOf = Literal["policy", "reference", "given"]
"""Whose entropy the baseline is: that of `policy.model` itself, that of `policy.reference`, or one that was given as
`entropy.baseline_nats`."""


class Contract(BaseModel):
    """A value that is exchanged between processes, or stored in files, as JSON; unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    former_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that earlier versions of reheatd stored; they are dropped when such a file is read."""

    @model_validator(mode="before")
    @classmethod
    def _without_former_fields(cls, value: Any) -> Any:
        if not cls.former_fields or not isinstance(value, dict):
            return value
        return {name: field for name, field in value.items() if name not in cls.former_fields}


class EntropyEstimate(Contract):
    """Mean token entropy with a confidence interval clustered by sequence, in nats per token."""

    mean: float
    low: float
    high: float
    tokens: int
    sequences: int


class PositionMean(Contract):
    """Mean token entropy over the tokens from this position of an answer up to the position of the next entry."""

    position: int
    """Position of the first of these tokens; an answer begins at 0."""
    tokens: int
    mean: float
    """Nats per token."""


class PassRate(Contract):
    """pass@k: the chance that at least one of k answers solves a problem, with a 95% interval."""

    k: int
    value: float
    low: float
    high: float


class Accuracy(Contract):
    """avg@k on held-out problems: the mean over problems of the share of k sampled answers that solve the problem.

    The interval is a 95% interval over problems and answers.
    """

    value: float
    low: float
    high: float
    problems: int
    samples: int = 1
    """Answers per problem, k."""
    solved: list[int] = []
    """Number of answers, out of `samples`, that solve each problem. Empty if reheatd 0.1 measured it, which decoded
    greedily and did not keep them."""
    problem_set: str = ""
    """Digest of the problems in the order of `solved`. Outcomes are compared problem by problem where it is equal."""
    pass_at: list[PassRate] = []
    """pass@k from the same answers for k = 1, 2, 4, ... up to `samples`, unbiased (arXiv 2107.03374). pass@1 is the
    accuracy itself."""


def ratio_interval(
    mean: float, *, squared_residuals: float, tokens: float, clusters: int, confidence: float
) -> EntropyEstimate:
    """A mean per token with a t interval that allows for correlation between the tokens of one cluster.

    The mean is a ratio of two sums over G clusters, sum(y) / sum(n). Its linearised variance is
    G/(G-1) * sum((y_g - mean * n_g)^2) / sum(n)^2 with G - 1 degrees of freedom (Cochran, Sampling Techniques,
    chapter 6, without the finite population correction).

    Args:
        mean: sum(y) / sum(n), nats per token.
        squared_residuals: sum((y_g - mean * n_g)^2), nats squared.
        tokens: sum(n), above 0.
        clusters: G, at least 2.
        confidence: Level of the interval, e.g. 0.95.
    """
    variance = clusters / (clusters - 1) * squared_residuals / tokens**2
    half = t_quantile(clusters - 1, confidence) * variance**0.5
    return EntropyEstimate(mean=mean, low=mean - half, high=mean + half, tokens=round(tokens), sequences=clusters)


def t_quantile(degrees: int, confidence: float) -> float:
    """Half the width of a two-sided t interval, in standard errors."""
    from scipy import special  # imported here, because that takes as long as all other imports of a CLI command

    return float(special.stdtrit(degrees, 0.5 + confidence / 2))
