"""Runs the verdicts over runs of RL with the shapes of arXiv 2606.00755: `python -m bench.regime`.

Every step of a run makes a version, which is measured once, and once more at once if that window is beyond a threshold,
as the daemon does it. Windows are made of sequences that SmolLM2-135M really sampled, scaled to the level that the
paper's figures show at that step. Every step also reports groups of rollouts, as many as a step of RL samples by
default. The same runs are judged by the defaults that reheatd had before: a collapse was half of the baseline.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.detector import Recording
from bench.figures import Report
from reheatd.config_tables import EntropySection
from reheatd.entropy.detector import CollapseDetector, DetectorState, Verdict, with_signal
from reheatd.entropy.regime import SignalStep, stays_stalled
from reheatd.options import RLOptions

SETTINGS = EntropySection()
OLD = EntropySection(collapse_ratio=0.5, collapse_nats=0.0, collapse_stable_share=0.0)
ALARMS: tuple[Verdict, ...] = ("collapsed", "too_hot", "stalled")
BASELINE_NATS = 0.8
REPEATS = 50
HEALTHY_STEPS = 430
"""Steps of the healthy part: 30 in which entropy falls, and 400 stable ones."""
STALL_STEP = 200
SPREAD = 2.0
"""Sum of the parameters of the beta distribution of problems' chances: most problems are easy or hard."""


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


def solving(levels: Sequence[float]) -> list[float]:
    """The mean chance to solve a problem at each step: it climbs from 0.2 to 0.6 and stays there."""
    return np.linspace(0.2, 0.6, len(levels)).tolist()


def stalling(levels: Sequence[float]) -> list[float]:
    """As `solving` until step 200; from there on, the problems take what the policy has lost: 1 of 12,288 tries."""
    return [*solving(levels)[:STALL_STEP], *[1 / 12_288] * (len(levels) - STALL_STEP)]


def groups(rng: np.random.Generator, chance: float) -> SignalStep:
    """The groups of a step of RL. Each problem has its own chance to be solved, around the mean one."""
    options = RLOptions()
    chances = rng.beta(SPREAD * chance, SPREAD * (1 - chance), options.prompts_per_step)
    solved = rng.binomial(options.group_size, chances)
    all_fail, all_pass = float((solved == 0).mean()), float((solved == options.group_size).mean())
    return SignalStep(1 - all_fail - all_pass, all_fail, all_pass, float(options.prompts_per_step))


@dataclass(frozen=True)
class Run:
    """A simulated run of RL."""

    name: str
    levels: list[float]
    """Entropy of the version of each step, in nats per token."""
    chances: list[float]
    """Mean chance to solve a problem at each step."""
    verdict: Verdict | None
    """The verdict that it earns; None for a healthy run."""
    onset: int
    """The step from which it earns that."""


def runs() -> list[Run]:
    falling, few, hot = declining(), few_prompts(), run_away()
    return [
        Run("healthy", healthy(), solving(healthy()), None, 0),
        Run(
            "collapse", falling, solving(falling), "collapsed", _first(falling, lambda nats: nats < 0.08, HEALTHY_STEPS)
        ),
        Run("few_prompts", few, solving(few), "collapsed", _first(few, lambda nats: nats < 0.08, 30)),
        Run("runaway", hot, solving(hot), "too_hot", _first(hot, lambda nats: nats > 0.45, 40)),
        Run("stall", healthy(), stalling(healthy()), "stalled", STALL_STEP),
    ]


@dataclass(frozen=True)
class Judged:
    """What a detector said to a run."""

    alarms: dict[Verdict, int]
    """The first window of each verdict, counted from 0; there may be several windows per step."""
    steps: dict[Verdict, int]
    """The step of that window."""
    step_windows: list[int]
    """Number of the first window of each step."""


def judge(recording: Recording, run: Run, settings: EntropySection, seed: int) -> Judged:
    rng, signal_rng = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    scale = BASELINE_NATS / recording.baseline(rng)
    baseline = BASELINE_NATS
    detector = CollapseDetector(settings)
    state: DetectorState | None = None
    alarms: dict[Verdict, int] = {}
    steps: dict[Verdict, int] = {}
    step_windows: list[int] = []
    windows = 0
    signal: list[SignalStep] = []
    stalled = False
    for step, level in enumerate(run.levels):
        step_windows.append(windows)
        signal = [*signal, groups(signal_rng, run.chances[step])][-settings.stall_steps :]
        stalled = stays_stalled(stalled, signal, settings)
        while True:
            estimate = recording.window(rng, scale * level / BASELINE_NATS).interval(settings.confidence)
            state = detector.step(state, step + 1, estimate, baseline, origin="rl")
            verdict = with_signal(state.verdict, stalled)
            alarms.setdefault(verdict, windows)
            steps.setdefault(verdict, step)
            windows += 1
            if not detector.is_undecided(state):
                break
    return Judged(alarms, steps, step_windows)


def main() -> None:
    report = Report("regime")
    recording = Recording.read()
    table = Table("run", "false alarms", "delay, windows", "old defaults: collapse called at step")
    for run in runs():
        delays, early, old = [], 0, []
        for repeat in range(REPEATS):
            judged = judge(recording, run, SETTINGS, repeat)
            before = judge(recording, run, OLD, repeat)
            old.append(before.steps.get("collapsed", len(run.levels)))
            for found, step in judged.steps.items():
                if found in ALARMS and (found != run.verdict or step < run.onset):
                    early += 1
            if run.verdict is None:
                continue
            if judged.steps.get(run.verdict, -1) >= run.onset:
                delays.append(judged.alarms[run.verdict] - judged.step_windows[run.onset] + 1)
            elif run.verdict not in judged.steps:
                report.result(f"{run.name}_missed_in_run_{repeat}", 1)
        report.result(f"{run.name}_false_alarms", early)
        if delays:
            report.result(f"{run.name}_delay_windows", statistics.median(delays), f"windows, at most {max(delays)}")
        report.result(f"{run.name}_old_defaults_collapse_step", statistics.median(old))
        table.add_row(
            run.name,
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
