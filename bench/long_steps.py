"""What the comparisons with TRL on long rollouts share: the lengths, the two runs, and the figures of both."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.figures import Report
from bench.rollout_file import write_long_rollouts
from bench.sides import run_side, seconds, show

STEPS = 2
"""Steps of each side; the first one is not timed."""


def mixed_lengths(longest: int) -> list[int]:
    """Tokens of eight rollouts with their prompts, of which each second one is about half as long as those before."""
    return [longest >> shift for shift in (0, 1, 2, 2, 3, 3, 4, 4)]


def compare_long_steps(
    report: Report,
    module: str,
    groups: Sequence[Sequence[int]],
    ours: dict[str, Any],
    trl: dict[str, Any],
    prefix: str = "",
) -> dict[str, Any]:
    """Takes the same steps with the sides `reheatd` and `trl` of a module, and reports speed and peak memory.

    Args:
        groups: Tokens of the rollouts of each group, with their prompts.
        ours, trl: Options of the two sides.
        prefix: Stands before the names of the figures.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rollouts.json"
        write_long_rollouts(file, groups)
        print(f"rollouts of {list(map(list, groups))} tokens with their prompts", flush=True)
        common = {"rollouts": str(file), "steps": STEPS}
        runs = {side: run_side(module, side, common | own) for side, own in (("reheatd", ours), ("trl", trl))}
    for side, run in runs.items():
        show("long step", side, run)
    tokens = sum(map(sum, groups))
    report.result(f"{prefix}long_step_tokens_per_s", tokens / seconds(runs["reheatd"]))
    report.result(f"{prefix}long_step_speedup_vs_trl", seconds(runs["trl"]) / seconds(runs["reheatd"]))
    report.result(f"{prefix}long_peak_memory_vs_trl", runs["reheatd"]["peak_mib"] / runs["trl"]["peak_mib"])
    return runs
