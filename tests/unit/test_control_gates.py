"""Gates: what passes, what does not, and that noise alone rejects nothing."""

import numpy as np
import pytest

from reheatd.control.gates import accuracy_gate, direction_gate, floor_gate, target_gate
from tests.unit.control_support import accuracy, entropy


@pytest.mark.parametrize(
    ("mean", "half_width", "passed"),
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
def test_target_is_met_within_tolerance_and_noise(mean: float, half_width: float, passed: bool) -> None:
    gate = target_gate(entropy(mean, half_width), target=1.0, tolerance=0.15)
    assert gate.passed is passed
    assert "1.000" in gate.detail and f"{mean:.3f}" in gate.detail


@pytest.mark.parametrize(
    ("before", "after", "tau", "passed"),
    [(1.0, 1.5, 1.5, True), (1.0, 0.5, 1.5, False), (1.0, 0.5, 0.5, True), (1.0, 1.5, 0.5, False)],
)
def test_entropy_moves_in_the_direction_of_tau(before: float, after: float, tau: float, passed: bool) -> None:
    assert direction_gate(entropy(before), entropy(after), tau).passed is passed


def test_a_move_against_tau_within_noise_passes() -> None:
    assert direction_gate(entropy(1.0, 0.1), entropy(0.95, 0.1), 1.1).passed


def test_rl_must_keep_entropy_above_the_collapse_threshold() -> None:
    assert floor_gate(entropy(1.01), floor=1.0).passed
    assert floor_gate(entropy(0.97, 0.05), floor=1.0).passed
    assert not floor_gate(entropy(0.9, 0.05), floor=1.0).passed


@pytest.mark.parametrize(
    ("before", "after", "passed"), [(24, 30, True), (24, 20, True), (24, 12, False), (48, 30, False)]
)
def test_accuracy_may_not_really_drop(before: int, after: int, passed: bool) -> None:
    assert accuracy_gate(accuracy(before), accuracy(after), tolerance=0.05).passed is passed


def test_a_large_tolerance_allows_a_real_drop() -> None:
    assert accuracy_gate(accuracy(40), accuracy(20), tolerance=0.5).passed


def test_an_unchanged_policy_is_almost_never_rejected_on_48_problems() -> None:
    draws = np.random.default_rng(0).binomial(48, 0.5, size=(2000, 2))
    rejected = [not accuracy_gate(accuracy(b), accuracy(a), tolerance=0.05).passed for b, a in draws]
    assert np.mean(rejected) < 0.04


def test_on_many_problems_a_drop_beyond_the_tolerance_is_seen() -> None:
    assert not accuracy_gate(accuracy(2500, 5000), accuracy(2200, 5000), tolerance=0.05).passed
    assert accuracy_gate(accuracy(2500, 5000), accuracy(2300, 5000), tolerance=0.05).passed
