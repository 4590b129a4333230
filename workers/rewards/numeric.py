"""Reward 1 for a completion whose number, expression or text equals the answer, judged by math-verify."""

from functools import lru_cache

from math_verify import parse, verify

from workers.rewards.calling import checked_by
from workers.rewards.golds import Gold, boxed, final_answer, normal, parse_gold, plain, word_of
from workers.rewards.judged import Judged
from workers.rewards.thinking import said


@checked_by(lambda answer: word_of(final_answer(answer)) or parse_gold(answer))
def numeric(completion: str, answer: str) -> float:
    r"""Whether a number or expression that `completion` states equals `answer`; text without one scores 0.

    The answer is a number, LaTeX such as `\frac{\sqrt3}{3}`, a solution with `\boxed{...}`, or one that ends with
    `#### 42`. An answer that is text in LaTeX, such as `\text{Tuesday}`, has to be what the completion's last `\boxed`
    holds, or all of it.
    """
    completion = said(completion)
    word = word_of(final_answer(answer))
    if word is not None:
        return float(plain(boxed(completion) or completion) == word)
    gold = _gold(answer)
    found = parse(completion)
    if verify(gold, found):
        return _judged(1.0, found)
    stated = boxed(completion)
    if stated is None:
        return _judged(0.0, found)
    found = parse(f"\\boxed{{{normal(stated)}}}")
    return _judged(float(verify(gold, found)), found)


def _judged(value: float, found: Gold) -> Judged:
    """The reward with what math-verify found in the completion."""
    stated = next((each for each in reversed(found) if isinstance(each, str)), None)
    return Judged(value, "it states no number" if stated is None else f"it states {stated}")


@lru_cache(4096)  # the rollouts of a group have the same answer
def _gold(answer: str) -> Gold:
    return parse_gold(answer)
