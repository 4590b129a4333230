"""A table of a job's rollouts for people to read, in `rollouts.jsonl` in the job's folder."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from reheatd.jobs.step_log import StepLog, StepRow
from reheatd.json_lines import Messages
from reheatd.measures import Contract

Value = TypeVar("Value")

ROLLOUTS_FILE = "rollouts.jsonl"
ENTROPIES_FILE = "token-entropies.jsonl"
"""Beside it, what training found of the rollouts after they were written."""
MAX_PER_STEP = 16
"""Largest number of rollouts that are kept of one step: two groups of eight, which is as much as anybody reads."""
MAX_CHARACTERS = 16_000
"""Longest text that is kept whole, about 4,000 tokens, so that the table stays below some tens of megabytes."""
MAX_TOKENS = 1000
"""Largest number of tokens of a completion that are kept with their figures, for the same reason: a token takes about
20 bytes."""
DIGITS = 3
"""Digits behind the point that a token's figures are kept with."""


class RewardPart(Contract):
    """One of the rewards of a completion."""

    name: str
    weight: float
    value: float
    """The reward without its weight."""
    said: str | None = None
    """What the reward said about the completion, or why it gave no value; None if it said nothing."""


class TokenValues(Contract):
    """The tokens of a completion one by one. Of a long completion, the first and the last `MAX_TOKENS` / 2 are kept."""

    texts: list[str]
    """The text of each token, special tokens included. A character of several tokens belongs to the last of them."""
    logprobs: list[float]
    """Log-probability of each token at temperature 1, in nats."""
    entropies: list[float] | None = None
    """Entropy of the state in which each token was sampled, in nats, as the sampler measured it or training computed
    it before it changed the policy; None if neither did, as for groups that teach nothing."""
    left_out: int = 0
    """Number of tokens in the middle that are left out; half of the lists comes before them."""


class RolloutRow(StepRow):
    """One rollout.

    `step` is the number of steps that the job had taken before the one that learns from it. With `rl.staleness`, the
    policy that was sampled from had taken one less.
    """

    model: str
    """Name of the version that was sampled from."""
    messages: Messages
    """The prompt."""
    completion: str
    tokens: int
    """Tokens of the completion."""
    mean_logprob: float
    """Mean log-probability of the completion's tokens at temperature 1, in nats per token."""
    truncated: bool
    """Whether the completion was cut off at its longest length."""
    reward: float | None = None
    """None for a reheat, which has no rewards."""
    advantage: float | None = None
    """None for a reheat, and for a group of which nothing can be learned because all its rewards are equal."""
    rewards: list[RewardPart] = Field(default_factory=list)
    """The rewards whose weighted sum is `reward`; empty for a reheat, and if an earlier version of reheatd trained."""
    by_token: TokenValues | None = None
    """None if an earlier version of reheatd trained."""


class EntropyRow(StepRow):
    """The entropies of a rollout's tokens."""

    index: int
    """Place of the rollout among those that are kept of its step."""
    entropies: list[float]
    """As in `TokenValues`."""


class RolloutRecorder:
    """Keeps rollouts of a job in `file`: the first of each step, at most `keep` over `steps` steps.

    If there are more steps than rollouts to keep, steps at equal distances are recorded.
    """

    def __init__(self, file: Path, *, steps: int, keep: int) -> None:
        self._log = StepLog(file, RolloutRow)
        self._entropies = StepLog(file.with_name(ENTROPIES_FILE), EntropyRow)
        self._every = math.ceil(steps / keep) if keep else 0
        self._per_step = min(MAX_PER_STEP, max(1, keep // steps))
        self._step: int | None = None
        self._left = 0

    def room(self, step: int) -> int:
        """How many rollouts of a step, which begins now if it has not yet, are still to be kept.

        Raises:
            ReheatdError: The file cannot be read or written.
        """
        if self._step is None:
            # A resumed job samples this step and all later ones again.
            self._log.keep_only(lambda row: row.step < step)
            self._entropies.keep_only(lambda row: row.step < step)
        if step != self._step:
            self._step = step
            self._left = self._per_step if self._every and step % self._every == 0 else 0
        return self._left

    def record(self, rows: Iterable[RolloutRow]) -> None:
        """Keeps as many of these rollouts, all of one step, as the step still has room for.

        Raises:
            ReheatdError: The file cannot be read or written.
        """
        chosen = list(rows)
        if not chosen:
            return
        kept = [_shortened(row) for row in islice(chosen, self.room(chosen[0].step))]
        self._left -= len(kept)
        if kept:
            self._log.append(kept)

    def record_entropies(self, step: int, index: int, entropies: Sequence[float]) -> None:
        """Keeps the entropies of the tokens of a rollout that was recorded, in nats.

        Args:
            index: Place of the rollout among those that are kept of its step.

        Raises:
            ReheatdError: The file cannot be written.
        """
        self._entropies.append([EntropyRow(step=step, index=index, entropies=rounded(entropies))])


def ends(values: Sequence[Value]) -> list[list[Value]]:
    """What is kept of a list that has a value for each token: all of it, or its first and last `MAX_TOKENS` / 2."""
    half = MAX_TOKENS // 2
    return [list(values)] if len(values) <= MAX_TOKENS else [list(values[:half]), list(values[-half:])]


def rounded(values: Sequence[float]) -> list[float]:
    """What is kept of figures of tokens."""
    return [round(value, DIGITS) + 0.0 for part in ends(values) for value in part]  # + 0.0 makes 0.0 of -0.0


def read_rollouts(file: Path, *, step: int | None = None) -> list[RolloutRow]:
    """The rollouts in `file`, oldest first, of one step or of all; none if there is no file.

    Raises:
        ReheatdError: The file cannot be read.
    """
    rows = [row for row in StepLog(file, RolloutRow).read() if step is None or row.step == step]
    entropies = read_entropies(file)
    counts: Counter[int] = Counter()
    for place, row in enumerate(rows):
        rows[place] = with_entropies(row, entropies.get((row.step, counts[row.step])))
        counts[row.step] += 1
    return rows


def read_entropies(file: Path) -> dict[tuple[int, int], list[float]]:
    """What training found of the rollouts in `file`, by their steps and their places among those of the step.

    Raises:
        ReheatdError: The file with it cannot be read.
    """
    beside = file.resolve().with_name(ENTROPIES_FILE)  # a job of several candidates links to the rollouts of one
    return {(row.step, row.index): row.entropies for row in StepLog(beside, EntropyRow).read()}


def with_entropies(row: RolloutRow, entropies: list[float] | None) -> RolloutRow:
    """The rollout with the entropies of its tokens, unless the sampler knew them."""
    if entropies is None or row.by_token is None or row.by_token.entropies is not None:
        return row
    return row.model_copy(update={"by_token": row.by_token.model_copy(update={"entropies": entropies})})


def _shortened(row: RolloutRow) -> RolloutRow:
    messages = [
        {**message, "content": _cut(message["content"])} if isinstance(message.get("content"), str) else message
        for message in row.messages
    ]
    return row.model_copy(update={"messages": messages, "completion": _cut(row.completion)})


def _cut(text: str) -> str:
    """Leaves out the middle of a text that is too long; the beginning and the answer at the end stay."""
    if len(text) <= MAX_CHARACTERS:
        return text
    half = MAX_CHARACTERS // 2
    return f"{text[:half]} [... {len(text) - 2 * half} characters left out ...] {text[-half:]}"
