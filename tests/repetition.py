"""A reward that any policy can raise, and that collapses it: the surest way to be paid is to say one thing for ever."""


def reward(completion: str, answer: str) -> float:
    """The share of characters that have come before in the completion."""
    return 1 - len(set(completion)) / max(len(completion), 1)
