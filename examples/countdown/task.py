"""Countdown: reach a target with four numbers, each used once, and the signs + - *.

Every number and every sign is one token, so that a policy of under a million parameters learns the task in minutes.
Most problems have several solutions, so a policy that knows the task has entropy to lose.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from reheatd.json_lines import Messages
from reheatd.task_data import Problem

NUMBERS = range(1, 21)
TARGETS = range(1, 100)
SIGNS = ("+", "-", "*")
PAD, END, REACH, BY = "<pad>", "<end>", ":", "="
WORDS = (PAD, END, REACH, BY, *SIGNS, *map(str, range(100)))
"""The vocabulary; a word's index is its token id."""
COMPLETION_TOKENS = 8
"""Tokens of a completion: four numbers, three signs and the end."""

Split = Literal["train", "tuning", "held_out"]
HELD_OUT_SHARE = 0.02
"""Share of all problems that are in each of `tuning` and `held_out`."""


class Solved(NamedTuple):
    """A problem with one of its solutions, both as words."""

    prompt: list[str]
    solution: list[str]


def value(expression: Sequence[str]) -> int | None:
    """The value of alternating numbers and signs, with multiplication first; None for anything else."""
    if len(expression) % 2 == 0:
        return None
    total, sign = 0, 1
    term: int | None = None
    for place, word in enumerate(expression):
        if place % 2 == 0:
            if not word.isdecimal():
                return None
            term = int(word) if term is None else term * int(word)
        elif word == "*":
            continue
        elif word in SIGNS and term is not None:
            total, term, sign = total + sign * term, None, 1 if word == "+" else -1
        else:
            return None
    return None if term is None else total + sign * term


def reward(completion: str, answer: str) -> float:
    """Gives 1 for an expression that uses exactly the problem's numbers and has the target's value.

    Args:
        answer: The numbers and the target, "3 7 4 2 25".
    """
    words = completion.split()
    *numbers, target = answer.split()
    return float(sorted(words[::2]) == sorted(numbers) and value(words) == int(target))


def solved_problems(generator: random.Random, split: Split) -> Iterator[Solved]:
    """Yields random problems of a split without end, each with a random solution."""
    while True:
        numbers = [str(generator.choice(NUMBERS)) for _ in range(4)]
        solution = numbers[:1]
        for number in numbers[1:]:
            solution += [generator.choice(SIGNS), number]
        target = value(solution)
        if target is not None and target in TARGETS and split_of(numbers, target) == split:
            generator.shuffle(numbers)
            yield Solved([*numbers, REACH, str(target), BY], solution)


def problems(count: int, split: Split, seed: int) -> list[Problem]:
    """Different problems of a split."""
    found: dict[str, Problem] = {}
    for prompt, _ in solved_problems(random.Random(seed), split):
        *numbers, _, target, _ = prompt
        problem = make_problem(list(map(int, numbers)), int(target))
        found.setdefault(problem.answer, problem)
        if len(found) == count:
            break
    return list(found.values())


def make_problem(numbers: Sequence[int], target: int) -> Problem:
    """The problem whose prompt names the numbers in this order; its answer does not depend on the order."""
    prompt = [*map(str, numbers), REACH, str(target), BY]
    answer = " ".join(map(str, [*sorted(numbers), target]))
    return Problem([{"role": "user", "content": " ".join(prompt)}], answer)


def split_of(numbers: Sequence[str], target: int) -> Split:
    """The split of a problem, decided by its content, so that no two splits share one in any order of its numbers."""
    content = " ".join([*sorted(numbers), str(target)])
    place = int.from_bytes(hashlib.sha256(content.encode()).digest()[:4]) / 2**32
    if place < HELD_OUT_SHARE:
        return "held_out"
    return "tuning" if place < 2 * HELD_OUT_SHARE else "train"


class WordCodec:
    """The `Codec` of this vocabulary."""

    stop_ids = frozenset([WORDS.index(END)])

    def encode(self, messages: Messages) -> list[int]:
        return token_ids(messages[-1]["content"].split())

    def decode(self, token_ids: list[int]) -> str:
        return " ".join(WORDS[token] for token in token_ids if token not in self.stop_ids)


def token_ids(words: Sequence[str]) -> list[int]:
    return [IDS[word] for word in words]


IDS = {word: token for token, word in enumerate(WORDS)}
