"""How long rollouts are, with `max_tokens = "auto"`.

A rollout that is cut off earns nothing, however well it began, and one that may go on for longer than the policy writes
costs nothing. So rollouts are a quarter longer than all but the longest answers that the policy gives to the task when
the first job begins. The quarter is for a policy that learns to write longer.
"""

import math
from collections.abc import Sequence

from pydantic import Field

from reheatd.errors import BadInputError
from reheatd.measures import Contract
from reheatd.tasks.problem import Problem, problem_digest

PROBLEMS = 64
"""Training problems whose answers decide."""
ENDED = 0.95
"""Share of the answers that decide the length; the others may be longer."""
MARGIN = 1.25
"""The length as a multiple of those answers."""
MULTIPLE = 16
"""The length is rounded up to a multiple of this."""
LEAST_TOKENS = 48
"""Rollouts are at least as long, however brief the answers are."""


class RolloutLength(Contract):
    """A length that was found, and what from."""

    tokens: int = Field(ge=1)
    """Tokens per rollout."""
    max_model_len: int
    """Largest number of tokens of prompt and answer together that the engine takes."""
    answers: int
    """Answers from which the length was found."""
    unended: int
    """How many of them had not ended when the engine had no room for more."""

    @classmethod
    def of(cls, lengths: Sequence[int], unended: int, *, room: int, max_model_len: int) -> "RolloutLength":
        """The length by the rule above.

        Args:
            lengths: Tokens of each answer, at least one, at temperature 1 and with as many tokens as there is room for.
            unended: How many answers were cut off.
            room: Tokens that the engine leaves beside the longest prompt.
        """
        if unended > (1 - ENDED) * len(lengths):
            tokens = room
        else:
            typical = sorted(lengths)[math.ceil(ENDED * (len(lengths) - 1))]
            tokens = min(room, max(LEAST_TOKENS, MULTIPLE * math.ceil(MARGIN * typical / MULTIPLE)))
        return cls(tokens=tokens, max_model_len=max_model_len, answers=len(lengths), unended=unended)

    @property
    def is_all_room(self) -> bool:
        """Whether too many answers had not ended, so that the length is all that the engine has room for."""
        return self.unended > (1 - ENDED) * self.answers

    @property
    def explanation(self) -> str:
        """One line about the length and why it is so."""
        if self.is_all_room:
            return (
                f"rollouts of {self.tokens} tokens, all that policy.max_model_len = {self.max_model_len} leaves: "
                f"{self.unended} of {self.answers} answers did not end"
            )
        return f"rollouts of {self.tokens} tokens, from {self.answers} answers of the policy"


def deciding(problems: Sequence[Problem]) -> list[Problem]:
    """The problems whose answers decide, the same ones whatever the order of `problems`."""
    return sorted(problems, key=problem_digest)[:PROBLEMS]


def room(problems: Sequence[Problem], prompt_tokens: Sequence[int], max_model_len: int) -> int:
    """Tokens that the engine leaves for an answer beside the longest of these prompts.

    Args:
        prompt_tokens: Tokens of each problem's prompt.

    Raises:
        BadInputError: It leaves none.
    """
    longest, problem = max(zip(prompt_tokens, problems, strict=True), key=lambda pair: pair[0])
    if longest >= max_model_len:
        raise BadInputError(
            f"{problem.place}: the prompt has {longest} tokens, which leaves no room for an answer in "
            f"policy.max_model_len = {max_model_len}; shorten the prompt or leave it out, or raise max_model_len",
            param="task.path",
        )
    return max_model_len - longest
