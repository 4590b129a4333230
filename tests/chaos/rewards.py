"""The reward of the tests' task."""


def letters(completion: str, answer: str) -> float:
    """Share of ASCII letters: a sampled completion always has some and never only those."""
    return sum(letter.isascii() and letter.isalpha() for letter in completion) / max(len(completion), 1)


def nothing(completion: str, answer: str) -> float:
    """A reward that no completion gets, so that RL learns nothing."""
    return 0.0
