"""Compares the collapse detector with a fixed threshold, Page-Hinkley and ADWIN: `python -m bench.detector`.

Windows are made of sequences that SmolLM2-135M really sampled, which `bench.entropy` writes to
bench/data/probe_sequences.json. A window takes a random sequence for each probe and scales its entropy to the level
that the scenario asks for. The delay is the number of windows from the first one whose level is below the collapse
threshold, including the window that raises the alarm.
"""

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from river import drift

from bench.figures import Report
from reheatd.config_tables import EntropySection
from reheatd.entropy.detector import CollapseDetector, DetectorState, Verdict
from reheatd.entropy.estimators import SequenceTotals
from reheatd.measures import EntropyEstimate

RECORDED = Path(__file__).parent / "data" / "probe_sequences.json"
SETTINGS = EntropySection()
STATIONARY = 10_000
REPEATS = 200
BEFORE = 60
"""Windows at the baseline before the scenario begins."""
AFTER = 400
DRIFT = 200
"""Windows that a slow drift takes from the baseline to `COLLAPSED`."""
COLLAPSED = 0.06
NOISY_COLLAPSED = 0.07
LOW_BUT_WELL = 0.14
"""Share of the baseline at which a healthy run of RL works (arXiv 2606.00755)."""

Alarm = Callable[[EntropyEstimate], bool]
"""Says whether a window raises an alarm; called with one window after the other."""


@dataclass(frozen=True)
class Recording:
    """The summed entropy and the number of tokens of many answers to each probe."""

    sums_PA: np.ndarray
    counts_PA: np.ndarray

    @classmethod
    def read(cls) -> "Recording":
        recorded = json.loads(RECORDED.read_text())
        return cls(np.array(recorded["nats"]), np.array(recorded["tokens"], dtype=np.float64))

    def window(self, rng: np.random.Generator, level: float = 1.0, noise: float = 1.0) -> SequenceTotals:
        """A window of one answer to each probe; `noise` stretches the distance of its entropy from the probe's mean."""
        probes, answers = self.sums_PA.shape
        rows, chosen = np.arange(probes), rng.integers(0, answers, probes)
        counts_P = self.counts_PA[rows, chosen]
        mean_P = self.sums_PA.sum(1) / self.counts_PA.sum(1) * counts_P
        sums_P = mean_P + noise * (self.sums_PA[rows, chosen] - mean_P)
        return SequenceTotals(level * np.maximum(sums_P, 0.0), counts_P)

    def baseline(self, rng: np.random.Generator) -> float:
        windows = [self.window(rng) for _ in range(SETTINGS.baseline_windows)]
        totals = windows[0]
        for window in windows[1:]:
            totals += window
        return totals.interval(SETTINGS.confidence).mean


class Ours:
    """reheatd's detector, which raises an alarm when its verdict becomes one of `verdicts`."""

    def __init__(self, baseline: float, *verdicts: Verdict) -> None:
        self._detector = CollapseDetector(SETTINGS)
        self._state: DetectorState | None = None
        self._baseline = baseline
        self._verdicts = verdicts

    def __call__(self, window: EntropyEstimate) -> bool:
        before = self._state
        self._state = self._detector.step(before, 1, window, self._baseline, origin="rl")
        return self._state.verdict in self._verdicts and (before is None or before.verdict not in self._verdicts)


def fixed_threshold(baseline: float) -> Alarm:
    return lambda window: window.mean < SETTINGS.collapse_ratio * baseline


class Standardised:
    """A change detector for streams of variance 1, with windows scaled by the mean and spread of the first 30."""

    def __init__(self, detector: drift.PageHinkley | drift.ADWIN) -> None:
        self._detector = detector
        self._first: list[float] = []

    def __call__(self, window: EntropyEstimate) -> bool:
        if len(self._first) < 30:
            self._first.append(window.mean)
            return False
        value = (window.mean - statistics.fmean(self._first)) / statistics.stdev(self._first)
        self._detector.update(value)
        return self._detector.drift_detected and value < 0


DETECTORS: dict[str, Callable[[float], Alarm]] = {
    "reheatd": lambda baseline: Ours(baseline, "collapsed"),
    "reheatd_warning": lambda baseline: Ours(baseline, "warning", "collapsed"),
    "threshold": fixed_threshold,
    "page_hinkley": lambda _: Standardised(drift.PageHinkley(mode="down")),
    "adwin": lambda _: Standardised(drift.ADWIN()),
}


def levels_of(scenario: str) -> list[tuple[float, float]]:
    """The level and the noise of every window, both relative to those of the baseline policy."""
    before = [(1.0, 1.0)] * BEFORE
    if scenario == "sudden":
        return before + [(COLLAPSED, 1.0)] * AFTER
    if scenario == "noisy":
        return before + [(NOISY_COLLAPSED, 3.0)] * AFTER
    slope = [(1.0 - (1.0 - COLLAPSED) * step / DRIFT, 1.0) for step in range(1, DRIFT + 1)]
    return before + slope + [(COLLAPSED, 1.0)] * (AFTER - DRIFT)


def windows(
    recording: Recording, rng: np.random.Generator, levels: Sequence[tuple[float, float]]
) -> Iterator[EntropyEstimate]:
    for level, noise in levels:
        yield recording.window(rng, level, noise).interval(SETTINGS.confidence)


def false_alarms(recording: Recording, make: Callable[[float], Alarm], settled: float) -> int:
    """Number of alarms in `STATIONARY` windows at a share `settled` of the baseline, reached within `DRIFT` windows."""
    rng = np.random.default_rng(1)
    alarm = make(recording.baseline(rng))
    approach = [(1.0 - (1.0 - settled) * step / DRIFT, 1.0) for step in range(DRIFT)]
    raised = [alarm(window) for window in windows(recording, rng, approach + [(settled, 1.0)] * STATIONARY)]
    return sum(raised[DRIFT:] if settled == 1.0 else raised)


def delays(recording: Recording, make: Callable[[float], Alarm], scenario: str) -> list[int | None]:
    """Windows to the alarm in each repetition: negative if it came before the collapse, None if it never came."""
    levels = levels_of(scenario)
    onset = next(index for index, (level, _) in enumerate(levels) if level < SETTINGS.collapse_ratio)
    found: list[int | None] = []
    for repeat in range(REPEATS):
        rng = np.random.default_rng(100 + repeat)
        alarm = make(recording.baseline(rng))
        raised = (index for index, window in enumerate(windows(recording, rng, levels)) if alarm(window))
        first = next(raised, None)
        found.append(None if first is None else first - onset + 1)
    return found


def main() -> None:
    report = Report("detector")
    recording = Recording.read()
    table = Table("detector", "false alarms, baseline", "false alarms, 14%", "sudden", "noisy", "drift")
    for name, make in DETECTORS.items():
        suffix = "" if name == "reheatd" else f"_{name}"
        cells = [name]
        for kind, settled in (("", 1.0), ("_low", LOW_BUT_WELL)):
            alarms = false_alarms(recording, make, settled)
            report.result(f"false_alarms_per_10000{kind}{suffix}", alarms)
            cells.append(str(alarms))
        for scenario in ("sudden", "noisy", "drift"):
            found = delays(recording, make, scenario)
            early = sorted(1 - delay for delay in found if delay is not None and delay <= 0)
            late = sorted(delay for delay in found if delay is not None and delay > 0)
            missed = found.count(None)
            prefix = f"{scenario}_collapse"
            report.result(f"{prefix}_alarms_before{suffix}", len(early))
            report.result(f"{prefix}_missed{suffix}", missed)
            cell = []
            if late:
                report.result(f"{prefix}_delay_windows_median{suffix}", statistics.median(late), "windows")
                report.result(f"{prefix}_delay_windows{suffix}", late[-1], "windows, the longest")
                cell.append(f"{statistics.median(late):.0f}, at most {late[-1]}")
            if early:
                lead = statistics.median(early)
                report.result(f"{prefix}_lead_windows_median{suffix}", lead, "windows before it, of those before it")
                cell.append(f"{len(early)} before it, by {lead:.0f}")
            if missed:
                cell.append(f"{missed} missed")
            cells.append("; ".join(cell))
        table.add_row(*cells)
    Console(width=140).print(table)
    report.write(stationary=STATIONARY, repeats=REPEATS, settings=SETTINGS.model_dump(mode="json"))


if __name__ == "__main__":
    main()
