"""The order in which RL sees problems."""

from reheatd.task_data import Problem
from workers.problem_order import ProblemOrder

PROBLEMS = [Problem([{"role": "user", "content": f"{number} + 1"}], str(number + 1)) for number in range(30)]


def answers(order: ProblemOrder, count: int) -> list[str]:
    return [problem.answer for problem in order.take(count)]


def test_every_epoch_has_each_problem_once_in_an_order_of_its_own() -> None:
    order = ProblemOrder(PROBLEMS, seed=0)
    epochs = [answers(order, 30) for _ in range(3)]
    assert all(sorted(epoch) == sorted(problem.answer for problem in PROBLEMS) for epoch in epochs)
    assert len({tuple(epoch) for epoch in [*epochs, [problem.answer for problem in PROBLEMS]]}) == 4
    assert answers(ProblemOrder(PROBLEMS, seed=1), 30) != epochs[0]


def test_a_later_job_goes_on_in_the_same_order_whatever_its_seed_and_the_order_of_the_lines() -> None:
    whole = answers(ProblemOrder(PROBLEMS, seed=0), 70)
    first = ProblemOrder(PROBLEMS, seed=0)
    other = ProblemOrder(PROBLEMS[:29], seed=0)
    begun = answers(first, 25)
    other.take(3)
    second = ProblemOrder([*reversed(PROBLEMS)], seed=7, places=[other.place, first.place])
    assert begun + answers(second, 45) == whole
    assert second.place.drawn == 70


def test_other_problems_are_begun_from_the_start() -> None:
    first = ProblemOrder(PROBLEMS, seed=0)
    first.take(25)
    changed = [*PROBLEMS[:29], Problem(PROBLEMS[29].messages, "another answer")]
    assert ProblemOrder(changed, seed=7, places=[first.place]).place.model_dump(exclude={"problem_set"}) == {
        "seed": 7,
        "drawn": 0,
    }
