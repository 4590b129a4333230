"""Reward 1 for a completion that is the answer, up to case and white space."""


def exact(completion: str, answer: str) -> float:
    return float(_normal(completion) == _normal(answer))


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()
