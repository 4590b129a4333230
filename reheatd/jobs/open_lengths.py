"""Lengths that a job's specification leaves open, because nobody knows yet how long the policy's answers are.

They are one number: rollouts of RL, those of a reheat, and answers to held-out problems are equally long. The worker
finds it (`workers.rollout_length`), and the daemon puts it into the specifications of later jobs
(`reheatd.control.rollout_lengths`).
"""

from typing import Any, TypeVar

from reheatd.jobs.contracts import JobBase, ReheatSpec, RLSpec
from reheatd.options import RL_REMEDIES

Spec = TypeVar("Spec", bound=JobBase)


def has_open_length(spec: JobBase) -> bool:
    """Whether the specification leaves a length open."""
    return with_length(spec, 1) != spec


def with_length(spec: Spec, tokens: int) -> Spec:
    """The specification with `tokens` where it leaves a length open."""
    changes: dict[str, Any] = {}
    if isinstance(spec, ReheatSpec | RLSpec) and spec.max_tokens == "auto":
        changes["max_tokens"] = tokens
    if isinstance(spec, ReheatSpec) and spec.remedy in ("auto", *RL_REMEDIES):
        changes["rl"] = spec.rl.with_length(tokens)
    # A job of RL that has a number of its own judges answers of that length.
    if spec.task.eval_max_tokens is None and not (isinstance(spec, RLSpec) and spec.max_tokens != "auto"):
        changes["task"] = spec.task.model_copy(update={"eval_max_tokens": tokens})
    return spec.model_copy(update=changes)
