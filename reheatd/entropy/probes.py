"""Probe prompts: what the policy is asked when its entropy is measured."""

import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from reheatd.errors import BadInputError

Message = dict[str, Any]
BUNDLED = "probes.jsonl"


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
    if path is None:
        name, text = f"the bundled {BUNDLED}", resources.files("reheatd").joinpath("data", BUNDLED).read_text("utf-8")
    else:
        name = str(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise BadInputError(f"probe file {name} cannot be read: {reason}", param="entropy.probes") from error
    # Not splitlines: JSON may hold U+2028 and its kin unescaped.
    lines = text.split("\n")
    probes = [_parse(line, f"{name}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if len(probes) < count:
        raise BadInputError(
            f"{name} holds {len(probes)} probes, fewer than entropy.probe_count = {count}; "
            "add probes or lower probe_count",
            param="entropy.probe_count",
        )
    chosen = tuple(probes[:count])
    return ProbeSet(chosen, hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest())


def _parse(line: str, where: str) -> tuple[Message, ...]:
    def bad(reason: str) -> BadInputError:
        return BadInputError(f"{where}: {reason}", param="entropy.probes")

    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise bad(f"not valid JSON ({error.msg} at column {error.colno})") from error
    expected = 'expected {"messages": [{"role": ..., "content": ...}]} or {"prompt": "..."}'
    if not isinstance(row, dict) or ("messages" in row) == ("prompt" in row):
        raise bad(expected)
    messages = row.get("messages", [{"role": "user", "content": row.get("prompt")}])
    if not isinstance(messages, list) or not messages:
        raise bad(f"`messages` is not a list with at least one message; {expected}")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise bad(f"a message without a `role`; {expected}")
        if not isinstance(message.get("content"), str) or not message["content"].strip():
            raise bad(f"a message or prompt without text; {expected}")
    return tuple(messages)
