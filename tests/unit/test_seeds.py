"""No two draws share their random numbers."""

from itertools import pairwise, product

from workers.sampling.seeds import completion_seed, seed_for

LOW = 2**32
"""torch's generator on a CPU takes only the lowest 32 bits of a seed."""


def test_completions_of_a_step_differ_in_the_bits_that_a_cpu_takes() -> None:
    for place in range(200):
        seed = seed_for("rollouts", 0, place)
        drawn = [completion_seed(seed, prompt, 8, j) for prompt in range(64) for j in range(8)]
        assert len({each % LOW for each in drawn}) == 64 * 8
        assert min(drawn) >= 0 and max(drawn) < 2**63  # the engine refuses larger ones


def test_batches_do_not_overlap() -> None:
    places = [("rollouts", job, step) for job, step in product(range(4), range(0, 2000, 4))]
    starts = [seed_for("rollouts", job, step) for _, job, step in places]
    starts += [seed_for("probes", 0, step) for step in range(500)] + [seed_for("answers", 0), seed_for("report", 0)]
    starts.sort()
    assert min(later - earlier for earlier, later in pairwise(starts)) > 64 * 1024


def test_a_place_is_not_mistaken_for_another() -> None:
    assert len({seed_for("rollouts", 1, 23), seed_for("rollouts", 12, 3), seed_for("rollouts", 123)}) == 3
    assert seed_for("rollouts", 1, 23) == seed_for("rollouts", 1, 23)
