"""Families of problems, told apart by the expressions that solve them.

An expression is a sum of terms, and each term is a product of numbers. Its shape is the number of factors of its terms,
largest first: 3 + 7 - 4 + 2 has the shape 1111, 3 * 7 + 4 - 2 has 211, 3 * 7 - 4 * 2 has 22 and 3 * 7 * 4 - 2 has 31.
A problem is described by the shapes of all its solutions. All problems that can be solved are listed here, so no
problem is put into a family by chance.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations_with_replacement, permutations, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from examples.countdown.task import NUMBERS, SIGNS, TARGETS, Split, make_problem, problems, split_of
from reheatd.task_data import Problem

SHAPES = ("1111", "211", "22", "31", "4")


@dataclass(frozen=True)
class Family:
    """The problems with at least one solution of a shape in `some`, and with no solution of a shape in `none`."""

    some: tuple[str, ...]
    none: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = sorted({*self.some, *self.none} - set(SHAPES))
        if unknown:
            raise ValueError(f"no expression has the shape {unknown[0]}; the shapes are {', '.join(SHAPES)}")


FAMILIES = {
    "sums": Family(some=("1111",)),
    "one_product": Family(some=("211",), none=("1111",)),
    "two_products": Family(some=("22", "31"), none=("1111", "211")),
    "only_sums": Family(some=("1111",), none=("211", "22", "31", "4")),
    "only_pairs": Family(some=("22",), none=("1111", "211", "31", "4")),
    "only_triples": Family(some=("31",), none=("1111", "211", "22", "4")),
}
"""The families by name. The easy one is `sums`, which + and - solve; `two_products` needs two multiplications."""

ANY = "any"
"""Name of the family of all problems; they are drawn as random expressions, as in pretraining."""


class Solvable(NamedTuple):
    """All multisets of four numbers, and the shapes of the solutions for every target."""

    numbers_N4: NDArray[np.int64]
    shapes_NT: NDArray[np.uint8]
    """Bit i is set if an expression of shape `SHAPES[i]` has these numbers and this value; T is the target itself."""


def shape_of(signs: Sequence[str]) -> str:
    """The shape of expressions with these signs between their numbers."""
    sizes = [1]
    for sign in signs:
        if sign == "*":
            sizes[-1] += 1
        else:
            sizes.append(1)
    return "".join(map(str, sorted(sizes, reverse=True)))


@lru_cache(maxsize=1)
def solvable() -> Solvable:
    """Tries every expression: 27 rows of signs on 24 orders of each of 8,855 multisets."""
    numbers_N4 = np.array(list(combinations_with_replacement(NUMBERS, 4)))
    shapes_NT = np.zeros((len(numbers_N4), TARGETS.stop), dtype=np.uint8)
    for signs in product(SIGNS, repeat=3):
        bit = 1 << SHAPES.index(shape_of(signs))
        for order in permutations(range(4)):
            values_N = _values(numbers_N4[:, order], signs)
            rows = np.flatnonzero((values_N >= TARGETS.start) & (values_N < TARGETS.stop))
            shapes_NT[rows, values_N[rows]] |= bit
    return Solvable(numbers_N4, shapes_NT)


def _values(numbers_N4: NDArray[np.int64], signs: Sequence[str]) -> NDArray[np.int64]:
    """Values of the expressions with these numbers in their order, with multiplication first."""
    total_N, term_N = np.zeros(len(numbers_N4), dtype=np.int64), numbers_N4[:, 0]
    for number_N, sign in zip(numbers_N4.T[1:], signs, strict=True):
        if sign == "*":
            term_N = term_N * number_N
        else:
            total_N, term_N = total_N + term_N, number_N if sign == "+" else -number_N
    return total_N + term_N


def family_problems(family: str, count: int, split: Split, seed: int) -> list[Problem]:
    """Different problems of a family and a split, in random order; fewer than `count` if there are no more.

    Args:
        family: A name in `FAMILIES`, or `ANY`.
    """
    if family == ANY:
        return problems(count, split, seed)
    found: list[Problem] = []
    generator = random.Random(seed)
    for numbers, target in _shuffled(FAMILIES[family], seed):
        if len(found) == count:
            break
        if split_of(list(map(str, numbers)), target) == split:
            found.append(make_problem(generator.sample(numbers, 4), target))
    return found


def _shuffled(family: Family, seed: int) -> Iterator[tuple[list[int], int]]:
    """Numbers and target of all problems of a family, in an order that follows from the seed."""
    table = solvable()
    some, none = (sum(1 << SHAPES.index(shape) for shape in shapes) for shapes in (family.some, family.none))
    rows_P, targets_P = np.nonzero((table.shapes_NT & some != 0) & (table.shapes_NT & none == 0))
    # The generator takes no negative seeds.
    for index in np.random.default_rng(seed % 2**32).permutation(len(rows_P)):
        yield table.numbers_N4[rows_P[index]].tolist(), int(targets_P[index])
