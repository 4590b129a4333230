"""How a reward is called: what it takes, and what it says about an answer before anything is scored."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from reheatd.errors import BadInputError
from reheatd.json_lines import Messages
from workers.rewards.judged import Judged

Reward = Callable[..., float]
Function = TypeVar("Function", bound=Reward)

BY_NAME = ("prompt", "record")
CHECK = "check_answer"
VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def checked_by(check: Callable[[str], object]) -> Callable[[Function], Function]:
    """Marks a reward with what every answer of a task is given to before training; it raises where it cannot be used.

    A reward of others has it as its attribute `check_answer`.
    """

    def mark(reward: Function) -> Function:
        setattr(reward, CHECK, check)
        return reward

    return mark


@dataclass(frozen=True)
class Call:
    """Calls a reward with as much as it takes."""

    reward: Reward
    positions: int
    """How many of completion and answer it takes, in this order and under any names."""
    names: tuple[str, ...]
    """Which of `prompt` and `record` it takes."""

    @classmethod
    def of(cls, reward: Reward) -> "Call":
        """The call of `reward`, by its signature.

        Raises:
            BadInputError: It takes more than a reward is given.
        """
        try:
            parameters = [*inspect.signature(reward).parameters.values()]
        except (TypeError, ValueError):  # some functions in C have none
            return cls(reward, 2, ())
        kinds = {parameter.kind for parameter in parameters}
        places = [
            parameter
            for parameter in parameters
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
            and parameter.name not in BY_NAME
        ][:2]
        for parameter in parameters:
            is_known = parameter in places or parameter.name in BY_NAME
            if not is_known and parameter.default is parameter.empty and parameter.kind not in VARIABLE:
                raise BadInputError(
                    f"it also takes {parameter.name}; a reward takes the completion and the answer, and `prompt` and "
                    "`record` under these names",
                    param="task.reward",
                )
        names = {parameter.name for parameter in parameters} & {*BY_NAME}
        if inspect.Parameter.VAR_KEYWORD in kinds:
            names = {*BY_NAME}
        positions = 2 if inspect.Parameter.VAR_POSITIONAL in kinds else len(places)
        return cls(reward, positions, tuple(sorted(names)))

    def __call__(self, completion: str, answer: str, prompt: Messages, record: dict[str, Any]) -> float:
        """What the reward gives; it may be a `Judged`."""
        named = {"prompt": prompt, "record": record}
        places = (completion, answer)[: self.positions]
        value = self.reward(*places, **{name: named[name] for name in self.names})
        return value if isinstance(value, Judged) else float(value)

    def check(self, answer: str) -> None:
        """Raises what the reward raises for an answer that it cannot use."""
        check = getattr(self.reward, CHECK, None)
        if check is not None:
            check(answer)

    @property
    def checks(self) -> bool:
        """Whether the reward can tell before scoring which answers it cannot use."""
        return hasattr(self.reward, CHECK)
