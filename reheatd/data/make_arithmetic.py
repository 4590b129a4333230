"""Generates the bundled arithmetic task: `python -m reheatd.data.make_arithmetic > reheatd/data/arithmetic.jsonl`.

The problems are additions of two numbers below 100, in a few wordings, all different. They are hard enough that a
135M-parameter model fails many of them, and easy enough that it solves some, so that group-relative advantages are
rarely all zero.
"""

import json
import random

COUNT = 500
SEED = 7
WORDINGS = (
    "What is {a} + {b}?",
    "Compute {a} + {b}.",
    "What is the sum of {a} and {b}?",
    "Add {a} and {b}. What do you get?",
)


def problems() -> list[dict[str, str]]:
    """`COUNT` problems; no two share both numbers."""
    generator = random.Random(SEED)
    pairs = [(a, b) for a in range(2, 100) for b in range(2, 100)]
    generator.shuffle(pairs)
    return [{"prompt": generator.choice(WORDINGS).format(a=a, b=b), "answer": str(a + b)} for a, b in pairs[:COUNT]]


if __name__ == "__main__":
    for problem in problems():
        print(json.dumps(problem))
