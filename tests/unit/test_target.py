"""When a policy counts as being at a reheat's target, although every measurement is noisy."""

import random

import pytest

from reheatd.measures import EntropyEstimate
from workers.target import WINDOWS, Target, pooled

TARGET = Target(1.0, upwards=True)


def estimate(mean: float, half: float, tokens: int = 100) -> EntropyEstimate:
    return EntropyEstimate(mean=mean, low=mean - half, high=mean + half, tokens=tokens, sequences=10)


def measured(*windows: EntropyEstimate) -> tuple[EntropyEstimate, list[int]]:
    asked: list[int] = []

    def window(number: int) -> EntropyEstimate:
        asked.append(number)
        return windows[number]

    return TARGET.measure(window), asked


@pytest.mark.parametrize("mean", [0.5, 1.6, 1.03])
def test_one_window_is_enough_where_noise_leaves_no_doubt(mean: float) -> None:
    found, asked = measured(estimate(mean, 0.05))
    assert found.mean == mean and asked == [0]


def test_a_window_that_is_inside_by_luck_is_not_believed() -> None:
    found, asked = measured(estimate(1.0, 0.4), estimate(0.5, 0.2), estimate(0.6, 0.2))
    assert asked == [0, 1, 2]
    assert found.mean == pytest.approx(0.7) and found.high < TARGET.low


def test_windows_end_where_noise_never_decides() -> None:
    found, asked = measured(*[estimate(1.0, 0.4)] * WINDOWS)
    assert asked == list(range(WINDOWS))
    assert found.high - found.low == pytest.approx(0.8 / WINDOWS**0.5)


def test_pooling_weighs_by_tokens() -> None:
    both = pooled([estimate(1.0, 0.3, tokens=100), estimate(2.0, 0.3, tokens=300)])
    assert both.mean == pytest.approx(1.75)
    assert both.high - both.mean == pytest.approx((0.3**2 + 0.9**2) ** 0.5 / 4)
    assert (both.tokens, both.sequences) == (400, 20)


def test_a_search_among_noisy_windows_does_not_take_students_that_are_far_off() -> None:
    """The measured entropy of students 25% short of the target is inside it far less often than with one window."""
    draw = random.Random(0)
    noisy = [lambda _: estimate(draw.gauss(0.75, 0.15), 0.3)] * 500
    believed = sum(TARGET.is_inside(TARGET.measure(window).mean) for window in noisy)
    single = sum(TARGET.is_inside(window(0).mean) for window in noisy)
    assert believed < single / 4
