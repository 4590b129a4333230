"""Probe prompts, which the policy is asked when its entropy is measured."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from reheatd.errors import BadInputError
from reheatd.json_lines import PROMPT, Message, prompt_messages, read_json_lines

BUNDLED = Path(__file__).parent.parent / "data" / "probes.jsonl"


@dataclass(frozen=True)
class ProbeSet:
    """A fixed, ordered set of chat prompts.

    Every window samples all of them. If windows rotated through a larger pool, a window would differ from its baseline
    by its prompts too, and that difference is larger than the one that the detector looks for.
    """

    probes: tuple[tuple[Message, ...], ...]
    digest: str
    """SHA-256 over the prompts; windows with equal digests can be compared."""

    def __len__(self) -> int:
        return len(self.probes)


def load_probes(path: Path | None, count: int) -> ProbeSet:
    """The first `count` probes of a JSONL file, or of the bundled set.

    A line is {"messages": [{"role": ..., "content": ...}, ...]} or {"prompt": "..."}; empty lines are skipped.

    Raises:
        BadInputError: The file cannot be read, holds too few probes, or has a line that cannot be used; the message
            names the line.
    """
    path = path or BUNDLED
    lines = read_json_lines(path, expected=PROMPT, param="entropy.probes")
    probes = [tuple(prompt_messages(place, values)) for place, values in lines]
    if len(probes) < count:
        raise BadInputError(
            f"{path} holds {len(probes)} probes, fewer than entropy.probe_count = {count}; "
            "add probes or lower probe_count",
            param="entropy.probe_count",
        )
    chosen = tuple(probes[:count])
    return ProbeSet(chosen, hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest())
