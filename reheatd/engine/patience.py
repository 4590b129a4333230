"""How long an answer may take: from its tokens, and from how fast the engine was so far."""

FIRST_GUESS_S = 0.25
"""Seconds per token before anything was measured: a guess that is rather too long."""
SLACK = 10.0
"""How many times as long as usual an answer may take, because it waits behind others or decodes beside them."""
TELLING_TOKENS = 8
"""Answers with fewer tokens tell about waiting and prompts, not about decoding."""
WEIGHT = 0.2
"""Weight of the latest answer in the average."""


class Patience:
    """Learns from answers how many seconds an engine takes per token."""

    def __init__(self) -> None:
        self._token_s: float | None = None

    def learn(self, tokens: int, seconds: float) -> None:
        """Takes an answer into account; of several that were sampled together, the longest."""
        if tokens < TELLING_TOKENS:
            return
        measured = seconds / tokens
        self._token_s = measured if self._token_s is None else self._token_s + WEIGHT * (measured - self._token_s)

    def seconds(self, tokens: int) -> float:
        """Longest wait for an answer of at most so many tokens."""
        return SLACK * tokens * (FIRST_GUESS_S if self._token_s is None else self._token_s)
