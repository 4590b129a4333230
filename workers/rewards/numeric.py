"""Reward 1 for a completion whose number equals the answer, judged by math-verify."""

from math_verify import parse, verify


def numeric(completion: str, answer: str) -> float:
    """Whether a number or expression that `completion` states equals `answer`; text without one scores 0."""
    return float(verify(parse(answer), parse(completion)))
