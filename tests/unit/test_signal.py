"""Which candidate brought signal back, and which remedies are tried."""

from collections.abc import Mapping

import pytest

from reheatd.errors import BadInputError
from reheatd.options import Remedy
from reheatd.signal import Reach, Signal, chance_of_nothing, is_restored
from tests.unit.signal_figures import signal
from workers.candidates import Candidate, make_candidates
from workers.evaluation import accuracy_from


@pytest.mark.parametrize(
    ("before", "after", "chance"),
    [
        (signal(), signal(), 1.0),
        (signal(), signal(1, 1, 1, 1), 1 / 16),
        (signal(), signal(1, 1, 1, 1, 1), 1 / 32),
        (signal(), signal(16), 1 / 2),  # many answers to one problem are one problem
        (signal(3, 1), signal(1, 2), 1.0),  # those that the parent finds as well say nothing
        (signal(1, 0, 0, 0), signal(0, 1, 1, 1), 5 / 16),
    ],
)
def test_problems_found_again_are_compared_with_what_chance_finds(before: Signal, after: Signal, chance: float) -> None:
    assert chance_of_nothing(before, after) == pytest.approx(chance)
    assert is_restored(before, after) == (chance <= 0.05)


def chosen(before: Signal, made: Mapping[str, Signal | None]) -> tuple[list[str], list[str]]:
    """The remedies that were tried, and those that made candidates, the best first."""
    tried: list[str] = []

    def make(remedy: Remedy) -> Candidate[str]:
        tried.append(remedy)
        if (found := made[remedy]) is None:
            raise BadInputError("there is nothing to scale", param="remedy")
        return Candidate(remedy, remedy, found)

    return tried, [candidate.made for candidate in make_candidates(before, make)]


def test_the_candidate_with_most_signal_comes_first() -> None:
    many, few = signal(*[1] * 12), signal(*[1] * 6)
    assert chosen(signal(), {"shrink": few, "ts_opsd": many})[1] == ["ts_opsd", "shrink"]
    assert chosen(signal(), {"shrink": many, "ts_opsd": few})[1] == ["shrink", "ts_opsd"]
    assert chosen(signal(), {"shrink": few, "ts_opsd": few})[1] == ["shrink", "ts_opsd"]  # the cheaper of equals
    # Of as many groups that vary, the one that succeeds more often.
    assert chosen(signal(), {"shrink": few, "ts_opsd": signal(*[2] * 6)})[1] == ["ts_opsd", "shrink"]


def test_remedies_that_are_jobs_of_rl_are_tried_only_if_no_cheap_one_restores_signal() -> None:
    enough, none = signal(*[1] * 5), signal(1)
    assert chosen(signal(), {"shrink": none, "ts_opsd": enough})[0] == ["shrink", "ts_opsd"]
    tried, best = chosen(signal(), {"shrink": none, "ts_opsd": none, "entropy_bonus": none, "hot": enough})
    assert tried == ["shrink", "ts_opsd", "entropy_bonus", "hot"] and best[0] == "hot"
    # Without lost problems there is nothing that they could restore.
    assert chosen(signal(lost=0), {"shrink": signal(lost=0), "ts_opsd": signal(lost=0)})[0] == ["shrink", "ts_opsd"]


def test_a_remedy_that_cannot_be_applied_makes_no_candidate() -> None:
    enough = signal(*[1] * 5)
    assert chosen(signal(), {"shrink": None, "ts_opsd": enough})[1] == ["ts_opsd"]
    with pytest.raises(BadInputError, match="no remedy can be applied; shrink: there is nothing to scale; ts_opsd"):
        chosen(signal(), dict.fromkeys(("shrink", "ts_opsd", "entropy_bonus", "hot")))


def test_reach_is_what_the_base_solves_and_the_policy_does_not() -> None:
    base, policy = (accuracy_from(solved, 4, "problems") for solved in ([4, 1, 0, 2], [4, 0, 0, 3]))
    reach = Reach.between(base, policy)
    assert reach is not None
    assert (reach.lost, reach.problems, reach.samples) == (1, 4, 16)
    assert (reach.base.k, reach.base.value, reach.policy.value) == (4, 0.75, 0.5)
    assert str(reach) == "pass@4 75.0% of the base, 50.0% of the policy; 1 of 4 problems solved by the base alone"
    assert Reach.between(base, accuracy_from([4, 0, 0, 3], 4, "other problems")) is None
    assert Reach.between(None, policy) is None
