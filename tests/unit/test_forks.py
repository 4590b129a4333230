"""Where samples leave the greedy completion, and how far they get from it."""

import functools
import random

import pytest

from reheatd.errors import EngineError
from workers.forks import edit_distance, fork_position, greedy_distance, normalised_edit_distance
from workers.sampling.rollout import Rollout


def rollout(prompt: int, *tokens: int) -> Rollout:
    return Rollout([prompt], list(tokens), "", [-0.1] * len(tokens), "m", truncated=False)


@pytest.mark.parametrize(
    ("sample", "greedy", "position"),
    [
        ([5, 6, 7], [5, 6, 7], None),
        ([9, 6, 7], [5, 6, 7], 0),
        ([5, 6, 9, 1, 2], [5, 6, 7], 2),
        ([5, 6], [5, 6, 7], None),
        ([], [5], None),
    ],
)
def test_fork_position(sample: list[int], greedy: list[int], position: int | None) -> None:
    assert fork_position(sample, greedy) == position


@pytest.mark.parametrize(
    ("one", "other", "distance"),
    [
        ("kitten", "sitting", 3),
        ("intention", "execution", 5),
        ("same", "same", 0),
        ("", "abc", 3),
        ("abc", "", 3),
        ("", "", 0),
        ("abcdef", "bcdefa", 2),
        ("abc", "xyz", 3),
    ],
)
def test_edit_distance(one: str, other: str, distance: int) -> None:
    assert edit_distance([*map(ord, one)], [*map(ord, other)]) == distance
    longest = max(len(one), len(other))
    expected = distance / longest if longest else 0.0
    assert normalised_edit_distance([*map(ord, one)], [*map(ord, other)]) == pytest.approx(expected)


def test_edit_distance_is_that_of_the_plain_table() -> None:
    generator = random.Random(0)
    for _ in range(50):
        one, other = (tuple(generator.randint(0, 3) for _ in range(generator.randint(1, 12))) for _ in range(2))
        assert edit_distance(one, other) == plain(one, other) == edit_distance(other, one)


@functools.cache
def plain(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    if not one or not other:
        return len(one) + len(other)
    replaced = plain(one[1:], other[1:]) + (one[0] != other[0])
    if one[0] == other[0]:
        return replaced
    return min(replaced, plain(one[1:], other) + 1, plain(one, other[1:]) + 1)


def test_samples_are_compared_with_the_greedy_completion_of_their_prompt() -> None:
    greedy = [rollout(1, 5, 6, 7, 8), rollout(2, 5, 5, 5, 5)]
    sampled = [rollout(2, 5, 5, 9, 9), rollout(1, 5, 6, 7, 8), rollout(1, 9, 6, 7, 8), rollout(3, 1)]
    found = greedy_distance(sampled, greedy)
    assert found.fork_position.rollouts == found.edit_distance.rollouts == 3
    assert found.fork_position.mean == pytest.approx((2 + 4 + 0) / 3)
    assert found.never_forked == pytest.approx(1 / 3)
    assert found.edit_distance.mean == pytest.approx((0.5 + 0 + 0.25) / 3)
    # The t interval of three values with 2 degrees of freedom: 4.303 standard errors.
    assert found.fork_position.high - found.fork_position.mean == pytest.approx(4.303 * 2 / 3**0.5, rel=1e-3)


def test_samples_without_greedy_completions_are_an_error() -> None:
    with pytest.raises(EngineError, match="only 1 of 2 samples"):
        greedy_distance([rollout(1, 5), rollout(3, 5)], [rollout(1, 5)])
