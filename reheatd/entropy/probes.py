"""Probe prompts, which the policy is asked when its entropy is measured."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from reheatd.json_lines import Message, Messages
from reheatd.options import TaskOptions, WindowOptions
from reheatd.task_data import load_task


@dataclass(frozen=True)
class ProbeSet:
    """A fixed, ordered set of chat prompts.

    Every window samples all of them. If windows rotated through a larger pool, a window would differ from its baseline
    by its prompts too, and that difference is larger than the one that the detector looks for.
    """

    probes: tuple[tuple[Message, ...], ...]
    digest: str
    """SHA-256 over the prompts; windows with equal digests can be compared."""

    @classmethod
    def of(cls, prompts: Sequence[Messages]) -> "ProbeSet":
        """The set of these prompts, in this order."""
        probes = tuple(map(tuple, prompts))
        return cls(probes, hashlib.sha256(json.dumps(probes, sort_keys=True).encode()).hexdigest())

    def __len__(self) -> int:
        return len(self.probes)


def load_probes(task: TaskOptions, measuring: WindowOptions) -> ProbeSet:
    """The probes that `measuring` names: prompts of the task, or those of a file.

    Raises:
        BadInputError: As for `reheatd.task_data.load_task`.
    """
    return ProbeSet.of(load_task(task, measuring).probes)
