"""Reward 1 for a completion that a regular expression finds."""

import re


def regex(completion: str, answer: str) -> float:
    r"""Whether the pattern `answer` is found anywhere in `completion`; `\A...\Z` asks for all of it.

    Raises:
        re.error: `answer` is no regular expression.
    """
    return float(re.search(answer, completion) is not None)
