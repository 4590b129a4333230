"""A reward for a policy that has lost something: 1 if a completion has any of the characters that the answer lists."""


def reward(completion: str, answer: str) -> float:
    return float(not set(answer).isdisjoint(completion))
