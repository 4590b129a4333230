"""Token entropy from what a server returns for each token: the top-k logprobs and the sampled token's logprob.

H(s) = -sum_v p(v|s) log p(v|s) is the entropy of the next token in state s, in nats. Every estimator here works on the
states that a policy visits when it samples at temperature 1. Array names carry their axes: T tokens, K top entries,
S sequences.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reheatd.errors import BadInputError
from reheatd.measures import EntropyEstimate, ratio_interval

Floats = NDArray[np.float64]

# A tail mass below this is a rounding error of the engine's fp32 logprobs, not probability.
MASS_FLOOR = 1e-7


@dataclass(frozen=True)
class TailModel:
    """c(s) = w0 + w1 log p_k + w2 log m: predicted mean surprisal of the tokens outside the top k, in nats.

    p_k is the probability at the edge of the top k, and m is the mass outside it. The default, 2 - log p_k, says that a
    token drawn from the tail is typically e^2 times rarer than the edge. It serves until windows have been measured,
    and is within a few per cent of the fitted model's variance on small language models. The estimate is unbiased
    whatever the weights are; they only decide its variance.
    """

    w0: float = 2.0
    w1: float = -1.0
    w2: float = 0.0

    def predict(self, log_edge_T: Floats, log_mass_T: Floats, vocab_size: int | None = None) -> Floats:
        """c for every token, kept within the limits that the edge, the mass and the vocabulary set."""
        c_T = self.w0 + self.w1 * log_edge_T + self.w2 * log_mass_T
        c_T = np.maximum(c_T, np.maximum(-log_edge_T, -log_mass_T))
        return c_T if vocab_size is None else np.minimum(c_T, np.log(vocab_size) - log_mass_T)


@dataclass(frozen=True)
class TailMoments:
    """Sufficient statistics of the regression behind `TailModel`, of surprisal on features over tail draws.

    A draw that fell outside the top k is a fair sample of the tail's surprisal in its state, so least squares over
    such draws fits c(s). Old windows fade by `DECAY`, because the policy changes. A ridge towards the default weights
    keeps the fit stable when there are few tail draws.
    """

    gram: Floats = field(default_factory=lambda: np.zeros((3, 3)))
    cross: Floats = field(default_factory=lambda: np.zeros(3))
    draws: float = 0.0

    DECAY = 0.98
    # Residual variance over the prior variance of each weight: sd 2 nats over sd 1.5, 0.7 and 0.5.
    RIDGE = (1.8, 8.0, 16.0)

    @classmethod
    def of(cls, features_N3: Floats, surprisal_N: Floats) -> "TailMoments":
        return cls(features_N3.T @ features_N3, features_N3.T @ surprisal_N, float(len(surprisal_N)))

    def __add__(self, other: "TailMoments") -> "TailMoments":
        return TailMoments(self.gram + other.gram, self.cross + other.cross, self.draws + other.draws)

    def followed_by(self, newer: "TailMoments") -> "TailMoments":
        """These statistics, faded by one window, plus `newer`."""
        return TailMoments(self.DECAY * self.gram, self.DECAY * self.cross, self.DECAY * self.draws) + newer

    def fit(self) -> TailModel:
        prior = TailModel()
        ridge = np.diag(self.RIDGE)
        prior_weights = np.array([prior.w0, prior.w1, prior.w2])
        weights = np.linalg.solve(self.gram + ridge, self.cross + ridge @ prior_weights)
        return TailModel(*(float(weight) for weight in weights))


@dataclass(frozen=True)
class TokenEstimates:
    """Every estimator's value for each token, in nats."""

    monte_carlo_T: Floats
    """-log p(x): unbiased, but noisy."""
    truncated_T: Floats
    """-sum of p log p over the top k: too low, because the whole tail is missing."""
    control_variate_T: Floats
    """Unbiased for draws at temperature 1, without most of Monte Carlo's variance."""
    plug_in_T: Floats
    """The top entries' share plus c(s) for the tail, within the bounds. It is for tokens that are no fair draw."""
    lower_T: Floats
    """Deterministic lower bound, whatever x was."""
    upper_T: Floats | None
    """Deterministic upper bound; None if the vocabulary's size is not known."""
    tail: TailMoments


def estimate_tokens(
    sampled_T: ArrayLike, top_TK: ArrayLike, tail: TailModel, vocab_size: int | None = None
) -> TokenEstimates:
    """Entropy of the next-token distribution at each visited state.

    The control variate is H^ = H_k + m c(s) + 1[x outside] (-log p(x) - c(s)), where H_k is the top entries' share of
    the entropy and m is the mass outside them. It is unbiased only if the draw x has no part in choosing the set that
    counts as the top. Equal probabilities at the edge are common (with logits in bf16, at two in five tokens), and a
    server breaks such ties as it likes. So here the top is every listed token that is strictly more probable than the
    last one listed. That depends on the values alone, at the cost of the last entry.

    Args:
        sampled_T: Logprob of the token drawn at temperature 1, in nats.
        top_TK: The k largest logprobs in descending order; rows shorter than k (a tiny vocabulary) end in -inf.
        tail: c(s); it must have been fixed before these tokens were drawn.
        vocab_size: V; without it there is no upper bound.
    """
    sampled_T = np.asarray(sampled_T, dtype=np.float64)
    top_TK = np.asarray(top_TK, dtype=np.float64)
    terms_TK = _plogp(top_TK)
    edge_T = top_TK[:, -1]
    complete_T = np.isneginf(edge_T)  # the whole vocabulary is listed: no tail
    log_edge_T = np.where(complete_T, 0.0, edge_T)

    strict_TK = top_TK > edge_T[:, None]
    mass_T = _tail_mass(np.exp(top_TK) * strict_TK, complete_T)
    log_mass_T = np.log(np.maximum(mass_T, MASS_FLOOR))
    outside_T = sampled_T <= edge_T
    c_T = tail.predict(log_edge_T, log_mass_T, vocab_size)
    modelled_T = (terms_TK * strict_TK).sum(axis=1) + mass_T * c_T
    control_variate_T = modelled_T + outside_T * (-sampled_T - c_T)
    features_N3 = np.stack([np.ones_like(log_edge_T), log_edge_T, log_mass_T], axis=1)[outside_T]

    truncated_T = terms_TK.sum(axis=1)
    rest_T = _tail_mass(np.exp(top_TK), complete_T)
    log_rest_T = np.log(np.maximum(rest_T, MASS_FLOOR))
    lower_T = truncated_T + rest_T * np.maximum(0.0, np.maximum(-log_edge_T, -log_rest_T))
    upper_T = None
    if vocab_size is not None:
        unlisted = max(vocab_size - top_TK.shape[1], 1)
        upper_T = truncated_T + rest_T * (np.log(unlisted) - log_rest_T)
    return TokenEstimates(
        -sampled_T,
        truncated_T,
        control_variate_T,
        np.clip(modelled_T, lower_T, upper_T),
        lower_T,
        upper_T,
        TailMoments.of(features_N3, -sampled_T[outside_T]),
    )


def _plogp(logprobs: Floats) -> Floats:
    """Computes -p log p, which is 0 where p is 0."""
    finite = np.where(np.isneginf(logprobs), 0.0, logprobs)
    return -np.exp(logprobs) * finite


def _tail_mass(listed_TK: Floats, complete_T: NDArray[np.bool_]) -> Floats:
    return np.where(complete_T, 0.0, np.clip(1.0 - listed_TK.sum(axis=1), 0.0, 1.0))


@dataclass(frozen=True)
class SequenceTotals:
    """The sum over tokens and the number of tokens, for each sequence or each cluster of sequences."""

    sums_S: Floats
    counts_S: Floats

    @classmethod
    def of(cls, values_by_sequence: Sequence[ArrayLike]) -> "SequenceTotals":
        arrays = [np.asarray(values, dtype=np.float64) for values in values_by_sequence]
        return cls(np.array([a.sum() for a in arrays]), np.array([float(a.size) for a in arrays]))

    def __add__(self, other: "SequenceTotals") -> "SequenceTotals":
        """Adds cluster by cluster, so that several windows of the same probes become one, clustered by probe."""
        return SequenceTotals(self.sums_S + other.sums_S, self.counts_S + other.counts_S)

    def interval(self, confidence: float) -> EntropyEstimate:
        """Mean per token over all tokens, with the interval of `reheatd.measures.ratio_interval`.

        Raises:
            BadInputError: There are fewer than two clusters, or there is no token.
        """
        clusters = len(self.counts_S)
        tokens = float(self.counts_S.sum())
        if clusters < 2 or tokens == 0:
            raise BadInputError(
                f"an interval needs at least 2 sequences and 1 token, got {clusters} and {tokens:.0f}; sample more"
            )
        mean = float(self.sums_S.sum() / tokens)
        residuals_S = self.sums_S - mean * self.counts_S
        squared = float(residuals_S @ residuals_S)
        return ratio_interval(mean, squared_residuals=squared, tokens=tokens, clusters=clusters, confidence=confidence)


def clustered_interval(values_by_sequence: Sequence[ArrayLike], confidence: float) -> EntropyEstimate:
    """Mean per token over all tokens, with an interval that allows for correlation within a sequence.

    Args:
        values_by_sequence: One array of per-token values, in nats, for each sequence; lengths may differ.
        confidence: Level of the interval, e.g. 0.95.

    Raises:
        BadInputError: There are fewer than two sequences, or there is no token.
    """
    return SequenceTotals.of(values_by_sequence).interval(confidence)


def diversity(answers: Sequence[str]) -> float:
    """Share of distinct answers, ignoring white space and case: 1 if all differ, 1/n if all n are the same."""
    if not answers:
        raise BadInputError("diversity needs at least one answer, got none")
    return len({" ".join(answer.split()).casefold() for answer in answers}) / len(answers)
