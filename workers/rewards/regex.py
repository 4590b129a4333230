"""Reward 1 for a completion in which a regular expression finds a match."""

import re

from workers.rewards.calling import checked_by
from workers.rewards.thinking import said


@checked_by(re.compile)
def regex(completion: str, answer: str) -> float:
    r"""Whether the pattern `answer` is found anywhere in `completion`; `\A...\Z` asks for the whole of it.

    Raises:
        re.error: `answer` is not a regular expression.
    """
    return float(re.search(answer, said(completion)) is not None)
