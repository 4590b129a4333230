"""Reward 1 for a completion that is the answer, apart from case and white space."""

from workers.rewards.thinking import said


def exact(completion: str, answer: str) -> float:
    """Whether `completion` is `answer`, apart from case and white space."""
    return float(_normal(said(completion)) == _normal(answer))


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()
