"""Gates: what passes, what does not, what cannot be told, and that noise alone rejects nothing."""

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from reheatd.control.gates import accuracy_gate, direction_gate, floor_gate, paired_loss, target_gate
from reheatd.jobs.contracts import GateResult
from reheatd.measures import Accuracy
from reheatd.options import TaskOptions
from tests.unit.control_figures import accuracy, entropy

DEFAULTS = TaskOptions()
BETA = (0.3, 0.5)
"""Shape of the problems' difficulties: most are solved nearly always or nearly never."""


def passed(gate: GateResult) -> bool:
    assert gate.outcome != "no_evidence"
    return gate.outcome == "passed"


def outcomes(solved: Sequence[int], samples: int, problem_set: str = "these") -> Accuracy:
    share = sum(solved) / len(solved) / samples
    return Accuracy(
        value=share,
        low=share,
        high=share,
        problems=len(solved),
        samples=samples,
        solved=list(solved),
        problem_set=problem_set,
    )


@pytest.mark.parametrize(
    ("mean", "half_width", "passes"),
    [
        (1.00, 0.01, True),
        (1.14, 0.01, True),
        (0.86, 0.01, True),
        (1.18, 0.01, False),
        (1.18, 0.04, True),  # its noise reaches into the range
        (0.80, 0.04, False),
        (0.80, 0.06, True),
    ],
)
def test_target_is_met_within_tolerance_and_noise(mean: float, half_width: float, passes: bool) -> None:
    gate = target_gate(entropy(mean, half_width), target=1.0, tolerance=0.15)
    assert passed(gate) is passes
    assert "1.000" in gate.detail and f"{mean:.3f}" in gate.detail


@pytest.mark.parametrize(
    ("before", "after", "tau", "passes"),
    [(1.0, 1.5, 1.5, True), (1.0, 0.5, 1.5, False), (1.0, 0.5, 0.5, True), (1.0, 1.5, 0.5, False)],
)
def test_entropy_moves_in_the_direction_of_tau(before: float, after: float, tau: float, passes: bool) -> None:
    assert passed(direction_gate(entropy(before), entropy(after), tau)) is passes


def test_a_move_against_tau_within_noise_passes() -> None:
    assert passed(direction_gate(entropy(1.0, 0.1), entropy(0.95, 0.1), 1.1))


def test_rl_must_keep_entropy_above_the_collapse_threshold() -> None:
    assert passed(floor_gate(entropy(1.01), floor=1.0))
    assert passed(floor_gate(entropy(0.97, 0.05), floor=1.0))
    assert not passed(floor_gate(entropy(0.9, 0.05), floor=1.0))


@pytest.mark.parametrize(
    ("before", "after", "samples", "outcome"),
    [
        ([4] * 60 + [0] * 60, [4] * 60 + [0] * 60, 4, "passed"),  # nothing changed
        ([4] * 60 + [0] * 60, [4] * 70 + [0] * 50, 4, "passed"),
        ([4] * 60 + [0] * 60, [4] * 40 + [0] * 80, 4, "failed"),
        ([4] * 60 + [0] * 60, [4] * 53 + [0] * 67, 4, "failed"),  # a loss of 5.8%, all of it in the same direction
        ([4] * 60 + [0] * 60, [4] * 55 + [0] * 65, 4, "no_evidence"),  # of 4.2%, which may as well be 7%
        ([8] * 120, [8] * 120, 8, "passed"),  # all solved, and enough of them
        ([8] * 12, [8] * 12, 8, "no_evidence"),  # all solved, but a thirteenth might be lost
        ([0] * 120, [0] * 120, 8, "no_evidence"),  # nothing to lose
        ([1] + [0] * 119, [0] * 120, 8, "no_evidence"),
        ([0] * 120, [6] * 20 + [0] * 100, 8, "passed"),  # nothing to lose, and really better
    ],
)
def test_a_loss_of_accuracy_fails_passes_or_cannot_be_told(
    before: list[int], after: list[int], samples: int, outcome: str
) -> None:
    assert accuracy_gate(outcomes(before, samples), outcomes(after, samples), 0.05).outcome == outcome


def test_one_answer_per_problem_is_judged_by_the_interval_for_matched_pairs() -> None:
    """Formula (5) of Agresti and Min, with half a pair more in each cell."""
    both, lost, won, neither = 20, 9, 4, 15
    before = outcomes([1] * both + [1] * lost + [0] * won + [0] * neither, 1)
    after = outcomes([1] * both + [0] * lost + [1] * won + [0] * neither, 1)
    b, c, n = lost + 0.5, won + 0.5, both + lost + won + neither + 2
    half = 1.6449 * math.sqrt((b + c) - (b - c) ** 2 / n) / n
    assert paired_loss(before, after) == pytest.approx((5 / 48, (b - c) / n - half, (b - c) / n + half), abs=1e-5)


def test_pairs_see_what_shares_alone_cannot() -> None:
    """The same shares before and after: one version lost the same problems throughout, the other wavers."""
    before = outcomes([1] * 60 + [0] * 60, 1)
    steady = outcomes([1] * 50 + [0] * 70, 1)
    wavering = outcomes([1] * 35 + [0] * 25 + [1] * 15 + [0] * 45, 1)
    assert steady.value == wavering.value
    assert accuracy_gate(before, steady, 0.05).outcome == "failed"
    assert accuracy_gate(before, wavering, 0.05).outcome == "no_evidence"


def test_without_evidence_the_gate_says_what_would_settle_it() -> None:
    solved = np.random.default_rng(1).binomial(2, 0.5, size=(2, 40)).tolist()
    gate = accuracy_gate(outcomes(solved[0], 2), outcomes(solved[0][::-1], 2), 0.05)
    assert gate.outcome == "no_evidence" and "avg@2: lost +0.0%, 90% interval [-" in gate.detail
    needed = re.search(r"raise task\.eval_count to about (\d+), or task\.eval_samples", gate.detail)
    assert needed is not None
    times = round(int(needed[1]) / 40) + 1
    enough = accuracy_gate(outcomes(solved[0] * times, 2), outcomes(solved[0][::-1] * times, 2), 0.05)
    assert enough.outcome == "passed"
    nothing_to_lose = accuracy_gate(outcomes([0] * 40, 2), outcomes([0] * 40, 2), 0.05)
    assert "take problems that it solves (task.path)" in nothing_to_lose.detail


def test_outcomes_on_other_problems_are_not_compared() -> None:
    gate = accuracy_gate(outcomes([8] * 120, 8, "these"), outcomes([0] * 120, 8, "those"), 0.05)
    assert gate.outcome == "no_evidence" and "measured on other problems" in gate.detail
    greedy = Accuracy(value=0.5, low=0.4, high=0.6, problems=48)  # as reheatd 0.1 stored it
    assert accuracy_gate(greedy, outcomes([8] * 120, 8), 0.05).outcome == "no_evidence"


def test_a_large_tolerance_allows_a_real_drop() -> None:
    assert accuracy_gate(accuracy(40), accuracy(20), tolerance=0.6).outcome == "passed"
    assert accuracy_gate(accuracy(0), accuracy(0), tolerance=1).outcome == "passed"


def judged(loss: float, problems: int, samples: int, trials: int = 600) -> Counter[str]:
    """How often each outcome is the verdict on a version that lost `loss` of its accuracy, on the same problems."""
    generator = np.random.default_rng(0)
    counts: Counter[str] = Counter()
    for _ in range(trials):
        chances = generator.beta(*BETA, size=problems)
        worse = chances * (1 - loss / (BETA[0] / sum(BETA)))
        solved = [generator.binomial(samples, p).tolist() for p in (chances, worse)]
        counts[accuracy_gate(outcomes(solved[0], samples), outcomes(solved[1], samples), 0.05).outcome] += 1
    return Counter({outcome: count / trials for outcome, count in counts.items()})


@pytest.mark.parametrize(("problems", "samples"), [(24, 1), (48, 1), (48, 4), (128, 8)])
def test_an_unchanged_policy_is_almost_never_rejected(problems: int, samples: int) -> None:
    assert judged(0.0, problems, samples)["failed"] < 0.06


def test_the_defaults_can_tell() -> None:
    problems, samples = DEFAULTS.eval_count, DEFAULTS.eval_samples
    assert judged(0.0, problems, samples)["passed"] > 0.9
    assert judged(0.12, problems, samples)["failed"] > 0.95


@pytest.mark.parametrize(("problems", "samples"), [(24, 1), (48, 4), (128, 8), (500, 8)])
def test_a_loss_beyond_the_tolerance_rarely_passes(problems: int, samples: int) -> None:
    assert judged(0.06, problems, samples)["passed"] < 0.06


def test_too_few_problems_ask_instead_of_passing() -> None:
    assert judged(0.15, 24, 1)["no_evidence"] > 0.5
    assert judged(0.15, 24, 1)["passed"] < 0.02
