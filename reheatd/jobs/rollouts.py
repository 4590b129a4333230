"""A table of a job's rollouts for people to read, in `rollouts.jsonl` in the job's folder."""

import math
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from reheatd.jobs.step_log import StepLog, StepRow
from reheatd.json_lines import Messages

ROLLOUTS_FILE = "rollouts.jsonl"
MAX_PER_STEP = 16
"""Largest number of rollouts that are kept of one step: two groups of eight, which is as much as anybody reads."""
MAX_CHARACTERS = 16_000
"""Longest text that is kept whole, about 4,000 tokens, so that the table stays below some tens of megabytes."""


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


class RolloutRecorder:
    """Keeps rollouts of a job in `file`: the first of each step, at most `keep` over `steps` steps.

    If there are more steps than rollouts to keep, steps at equal distances are recorded.
    """

    def __init__(self, file: Path, *, steps: int, keep: int) -> None:
        self._log = StepLog(file, RolloutRow)
        self._every = math.ceil(steps / keep) if keep else 0
        self._per_step = min(MAX_PER_STEP, max(1, keep // steps))
        self._step: int | None = None
        self._left = 0

    def record(self, rows: Iterable[RolloutRow]) -> None:
        """Keeps as many of these rollouts, all of one step, as the step still has room for.

        Raises:
            ReheatdError: The file cannot be written.
        """
        chosen = list(rows)
        if not chosen:
            return
        step = chosen[0].step
        if self._step is None:
            # A resumed job samples this step and all later ones again.
            self._log.keep_only(lambda row: row.step < step)
        if step != self._step:
            self._step = step
            self._left = self._per_step if self._every and step % self._every == 0 else 0
        kept = [_shortened(row) for row in islice(chosen, self._left)]
        self._left -= len(kept)
        if kept:
            self._log.append(kept)


def read_rollouts(file: Path, *, step: int | None = None) -> list[RolloutRow]:
    """The rollouts in `file`, oldest first, of one step or of all; none if there is no file.

    Raises:
        ReheatdError: The file cannot be read.
    """
    return [row for row in StepLog(file, RolloutRow).read() if step is None or row.step == step]


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
