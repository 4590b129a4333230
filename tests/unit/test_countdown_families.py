from itertools import permutations, product

import pytest

from examples.countdown.families import FAMILIES, SHAPES, Family, family_problems, shape_of
from examples.countdown.task import SIGNS, Split, reward, value


def solutions(answer: str) -> dict[str, str]:
    """One solution of each shape that solves the problem, found by trying every expression."""
    *numbers, target = answer.split()
    found: dict[str, str] = {}
    for order in permutations(numbers):
        for signs in product(SIGNS, repeat=3):
            words = [word for pair in zip(order, [*signs, ""], strict=True) for word in pair][:-1]
            if value(words) == int(target):
                found[shape_of(signs)] = " ".join(words)
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_the_solutions_of_a_familys_problems_have_its_shapes(name: str) -> None:
    family = FAMILIES[name]
    for problem in family_problems(name, 6, "train", seed=3):
        found = solutions(problem.answer)
        assert found.keys() & set(family.some)
        assert not found.keys() & set(family.none)
        assert all(reward(solution, problem.answer) == 1 for solution in found.values())


def test_the_shape_of_an_expression_is_that_of_its_terms() -> None:
    assert {"".join(signs): shape_of(signs) for signs in (("+", "-", "+"), ("*", "+", "-"), ("-", "*", "-"))} == {
        "+-+": "1111",
        "*+-": "211",
        "-*-": "211",
    }
    assert [shape_of(signs) for signs in (("*", "-", "*"), ("*", "*", "+"), ("*", "*", "*"))] == ["22", "31", "4"]
    assert {shape_of(signs) for signs in product(SIGNS, repeat=3)} == set(SHAPES)


def test_problems_are_different_and_follow_from_the_seed_alone() -> None:
    first = family_problems("two_products", 200, "train", seed=-1)
    assert len({problem.answer for problem in first}) == 200
    assert first == family_problems("two_products", 200, "train", seed=-1)
    assert first[:50] == family_problems("two_products", 50, "train", seed=-1)
    assert first != family_problems("two_products", 200, "train", seed=1)


def test_no_problem_is_in_two_splits() -> None:
    splits: tuple[Split, ...] = ("train", "held_out")
    train, held_out = (
        {problem.answer for problem in family_problems("only_triples", 10**6, split, seed=0)} for split in splits
    )
    assert len(held_out) > 20
    assert not train & held_out


def test_numbers_of_a_prompt_are_in_random_order() -> None:
    prompts = [problem.messages[-1]["content"].split()[:4] for problem in family_problems("sums", 60, "train", seed=0)]
    assert sum(numbers == sorted(numbers, key=int) for numbers in prompts) < 20


def test_a_shape_that_no_expression_has_is_refused() -> None:
    with pytest.raises(ValueError, match="no expression has the shape 13"):
        Family(some=("13",))
