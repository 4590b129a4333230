"""Prompts that several sequences share, computed once in a training pass: when that pays, and which go together.

The rollouts of a group begin with the same prompt. `workers.packing` computes each distinct prompt once, and lets the
completions of all its sequences attend to it. A gradient is the same as in the plain pass up to rounding, because
autograd sums it over the sequences of a prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

Sequences = Sequence[tuple[list[int], list[int]]]
"""Pairs of prompt ids and completion ids."""

LEAST_SAVING = 1.25
"""Prompts are shared where the plain pass computes at least this many times as many positions, padding included. For
attention, queries, keys and values are then copied for every sequence."""
MAX_REPEATED = 4
"""They are copied for at most this many times the positions of a micro-batch; they take memory."""


def sharing_pays(sequences: Sequences) -> bool:
    """Whether sharing prompts saves enough, see `LEAST_SAVING`."""
    return _Size.of(sequences).pays


def by_prompt(sequences: Sequences, max_positions: int) -> list[list[int]]:
    """Indices grouped so that the sequences of a prompt are together, and no group computes more than `max_positions`.

    The sequences of a prompt are in several groups if one is too small for them. A sequence that is longer than
    `max_positions` gets a group of its own.
    """
    number: dict[tuple[int, ...], int] = {}
    keys = [(len(prompt), number.setdefault(tuple(prompt), len(number)), len(rest)) for prompt, rest in sequences]
    groups: list[list[int]] = []
    size, last = _Size(), -1
    for index in sorted(range(len(keys)), key=keys.__getitem__, reverse=True):
        prompt, which, completion = keys[index]
        size = size.with_one_more(prompt, completion, is_new=which != last)
        if not groups or size.shared > max_positions or size.plain > MAX_REPEATED * max_positions:
            groups.append([])
            size = _Size().with_one_more(prompt, completion, is_new=True)
        groups[-1].append(index)
        last = which
    return groups


def computed_positions(sequences: Sequences) -> int:
    """Positions that the model computes for a micro-batch of these sequences, with or without sharing."""
    size = _Size.of(sequences)
    return size.shared if size.pays else size.plain


@dataclass(frozen=True)
class _Size:
    """How large a micro-batch is. Completions are counted without their last tokens."""

    sequences: int = 0
    prompts: int = 0
    """Number of distinct prompts."""
    prompt: int = 0
    """Length of the longest prompt."""
    completion: int = 0
    """Length of the longest completion."""
    longest: int = 0
    """Length of the longest prompt with its completion."""

    @classmethod
    def of(cls, sequences: Sequences) -> "_Size":
        size = cls()
        seen: set[tuple[int, ...]] = set()
        for prompt, completion in sequences:
            size = size.with_one_more(len(prompt), len(completion), is_new=tuple(prompt) not in seen)
            seen.add(tuple(prompt))
        return size

    def with_one_more(self, prompt: int, completion: int, *, is_new: bool) -> "_Size":
        return _Size(
            self.sequences + 1,
            self.prompts + is_new,
            max(self.prompt, prompt),
            max(self.completion, completion - 1),
            max(self.longest, prompt + completion - 1),
        )

    @property
    def plain(self) -> int:
        """Positions that the plain pass computes, padding included."""
        return self.sequences * self.longest

    @property
    def shared(self) -> int:
        """Positions that are computed with shared prompts, padding included."""
        return self.prompts * self.prompt + self.sequences * self.completion

    @property
    def pays(self) -> bool:
        return self.plain >= LEAST_SAVING * self.shared
