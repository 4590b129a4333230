"""Finds the code that a completion shows between fences, as chat models do."""

import re

FENCE = re.compile(r"^```[ \t]*([\w+-]*)[ \t]*\n(.*?)^```[ \t]*$", re.DOTALL | re.MULTILINE)


def last_block(completion: str) -> str:
    """Content of the last fenced block; the whole completion if there is none."""
    blocks = FENCE.findall(completion)
    return blocks[-1][1] if blocks else completion
