"""Probe prompts: what the policy is asked when its entropy is measured."""

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

    Every window samples all of them. Rotating through a larger pool would put the difference between prompts, which
    is larger than what the detector looks for, between a window and its baseline.
    """

    probes: tuple[tuple[Message, ...], ...]
    digest: str
    """SHA-256 over the prompts: equal digests mean comparable windows."""

    def __len__(self) -> int:
        return len(self.probes)


def load_probes(path: Path | None, count: int) -> ProbeSet:
    """The first `count` probes of a JSONL file, or of the bundled set.

    A line is {"messages": [{"role": ..., "content": ...}, ...]} or {"prompt": "..."}; empty lines are skipped.

    Raises:
        BadInputError: The file is missing, holds too few probes, or has a line that cannot be used; the message
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
