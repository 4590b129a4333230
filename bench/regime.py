"""Runs the detector over runs of RL with the shapes of arXiv 2606.00755: `python -m bench.regime`.

Every step of a run makes a version, which is measured once, and once more at once if that window is beyond a threshold,
as the daemon does it. Windows are made of sequences that SmolLM2-135M really sampled, scaled to the level that the
paper's figures show at that step. The same runs are judged by the defaults that reheatd had before: a collapse was half
of the baseline.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.detector import Recording
from bench.figures import Report
from reheatd.config import EntropySection
from reheatd.entropy.detector import CollapseDetector, DetectorState, Verdict

SETTINGS = EntropySection()
OLD = EntropySection(collapse_ratio=0.5, collapse_nats=0.0, collapse_stable_share=0.0)
BASELINE_NATS = 0.8
REPEATS = 50
HEALTHY_STEPS = 430
"""Steps of the healthy part: 30 in which entropy falls, and 400 stable ones."""


def healthy() -> list[float]:
    """Entropy falls from 0.8 to 0.11 nats in 30 steps, while the reward climbs, and stays there for 400 steps."""
    return [*(0.11 + 0.69 * np.exp(-np.arange(30) / 6)).tolist(), *[0.11] * 400]


def declining() -> list[float]:
    """After 400 stable steps, entropy declines below 0.08 nats, which it passes in the middle of this."""
    return [*healthy(), *np.linspace(0.11, 0.05, 60).tolist(), *[0.05] * 100]


def few_prompts() -> list[float]:
    """Entropy falls like that of a healthy run, but goes on falling below 0.04 nats."""
    return [
        *(0.11 + 0.69 * np.exp(-np.arange(30) / 6)).tolist(),
        *np.linspace(0.11, 0.035, 150).tolist(),
        *[0.035] * 100,
    ]


def run_away() -> list[float]:
    """Entropy works at 0.15 nats until step 50 and then rises to 2.5 within 15 steps."""
    return [*(0.15 + 0.65 * np.exp(-np.arange(30) / 6)).tolist(), *[0.15] * 20, *np.geomspace(0.15, 2.5, 15).tolist()]


@dataclass(frozen=True)
class Judged:
    """What a detector said to a run."""

    alarms: dict[Verdict, int]
    """The first window of each verdict, counted from 0; there may be several windows per step."""
    steps: dict[Verdict, int]
    """The step of that window."""
    step_windows: list[int]
    """Number of the first window of each step."""


def judge(recording: Recording, levels: Sequence[float], settings: EntropySection, seed: int) -> Judged:
    rng = np.random.default_rng(seed)
    scale = BASELINE_NATS / recording.baseline(rng)
    baseline = BASELINE_NATS
    detector = CollapseDetector(settings)
    state: DetectorState | None = None
    alarms: dict[Verdict, int] = {}
    steps: dict[Verdict, int] = {}
    step_windows: list[int] = []
    windows = 0
    for step, level in enumerate(levels):
        step_windows.append(windows)
        while True:
            estimate = recording.window(rng, scale * level / BASELINE_NATS).interval(settings.confidence)
            state = detector.step(state, step + 1, estimate, baseline, origin="rl")
            alarms.setdefault(state.verdict, windows)
            steps.setdefault(state.verdict, step)
            windows += 1
            if not detector.is_undecided(state):
                break
    return Judged(alarms, steps, step_windows)


def main() -> None:
    report = Report("regime")
    recording = Recording.read()
    table = Table("run", "false alarms", "delay, windows", "old defaults: collapse called at step")
    runs: list[tuple[str, list[float], Verdict | None, int | None]] = [
        ("healthy", healthy(), None, None),
        ("collapse", declining(), "collapsed", _first(declining(), lambda level: level < 0.08, HEALTHY_STEPS)),
        ("few_prompts", few_prompts(), "collapsed", _first(few_prompts(), lambda level: level < 0.08, 30)),
        ("runaway", run_away(), "too_hot", _first(run_away(), lambda level: level > 0.45, 40)),
    ]
    for name, levels, verdict, onset in runs:
        delays, early, old = [], 0, []
        for repeat in range(REPEATS):
            judged = judge(recording, levels, SETTINGS, repeat)
            before = judge(recording, levels, OLD, repeat)
            old.append(before.steps.get("collapsed", len(levels)))
            for found, step in judged.steps.items():
                if found in ("collapsed", "too_hot") and (found != verdict or step < (onset or 0)):
                    early += 1
            if verdict is not None and onset is not None and judged.steps.get(verdict, -1) >= onset:
                delays.append(judged.alarms[verdict] - judged.step_windows[onset] + 1)
            elif verdict is not None and verdict not in judged.steps:
                report.result(f"{name}_missed_in_run_{repeat}", 1)
        report.result(f"{name}_false_alarms", early)
        if delays:
            report.result(f"{name}_delay_windows", statistics.median(delays), f"windows, at most {max(delays)}")
        report.result(f"{name}_old_defaults_collapse_step", statistics.median(old))
        table.add_row(
            name,
            f"{early} in {REPEATS} runs",
            f"{statistics.median(delays):.0f}, at most {max(delays)}" if delays else "-",
            f"{statistics.median(old):.0f}",
        )
    Console(width=140).print(table)
    report.write(repeats=REPEATS, settings=SETTINGS.model_dump(mode="json"))


def _first(levels: Sequence[float], is_beyond: Callable[[float], bool], after: int) -> int:
    return next(step for step in range(after, len(levels)) if is_beyond(levels[step]))


if __name__ == "__main__":
    main()
