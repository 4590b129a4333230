"""Measures what this machine's CPU can do at most, for `reheatd plan`: prints one JSON object.

Run with `python -m workers.cpu_speed`; it takes about a second.
"""

import json
import time
from collections.abc import Callable

import torch

from workers.policy import choose_dtype

SIDE = 1024
COPIED_BYTES = 256 << 20
TRIES = 5


def main() -> None:
    dtype = choose_dtype("auto", torch.device("cpu"))
    one, other = torch.randn(2, SIDE, SIDE).to(dtype)
    numbers = torch.zeros(COPIED_BYTES // 4)
    flops = 2 * SIDE**3 / fastest(lambda: torch.mm(one, other))
    bandwidth = COPIED_BYTES / fastest(lambda: numbers.sum())
    print(json.dumps({"flops": flops, "bandwidth": bandwidth, "itemsize": dtype.itemsize}))


def fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of a few runs."""
    work()
    seconds = []
    for _ in range(TRIES):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


if __name__ == "__main__":
    main()
