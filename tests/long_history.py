"""A long history of a policy, made up: RL sharpens it until it collapses, and a reheat brings it back, over and over.

It is what pages, pictures and benchmarks of the dashboard are about. The same arguments make the same history.
"""

import sqlite3
from collections.abc import Iterator

import numpy as np

from reheatd.control.ledger import Ledger
from reheatd.entropy.detector import DetectorState, Verdict
from reheatd.entropy.live import LiveSeries, LiveWindow
from reheatd.entropy.series import EntropySeries, Window
from reheatd.measures import EntropyEstimate, PositionMean
from reheatd.names import model_name, version_name

BASELINE = 2.1
COLLAPSED = 0.1 * BASELINE
SHARPENED = 0.86
"""Entropy after a job of RL, as a share of that before it."""
REHEATED = 0.42
SPREAD = 0.015
EVERY = 10
"""Windows of the probes for each window of another source."""
COLUMNS = "time, event, from_state, to_state, reason, job_id, version, actor"


def fill(
    db: sqlite3.Connection, key: str, *, windows: int, versions: int, end: float, interval_s: float = 120.0
) -> None:
    """Writes a baseline, windows and what the journal says of them into a database without windows.

    Args:
        key: Key of the series of the probes.
        windows: Number of windows of the probes.
        versions: Number of versions that are promoted, besides the base, in equal stretches of time.
        end: Time of the last window, in seconds since the epoch.
        interval_s: Time between two windows, in seconds.
    """
    series = EntropySeries(db, key)
    LiveSeries(db, confidence=0.95)
    Ledger(db)
    series.save_baseline(_estimate(BASELINE, 0.1))
    levels = [*_levels(versions)]
    version_N = np.minimum(np.arange(windows) * (versions + 1) // windows, versions)
    time_N = end - interval_s * np.arange(windows - 1, -1, -1)
    mean_N = np.array(levels)[version_N] * (1 + np.random.default_rng(0).normal(0, SPREAD, windows))
    rows = [(float(at), int(version), float(mean)) for at, version, mean in zip(time_N, version_N, mean_N, strict=True)]
    with db:
        db.executemany(
            "INSERT INTO entropy_windows (time, version, key, window) VALUES (?, ?, ?, ?)",
            ((at, version, key, text) for (at, version, _), text in zip(rows, _windows(rows), strict=True)),
        )
        db.executemany(
            "INSERT INTO live_windows (time, version, source, window) VALUES (?, ?, ?, ?)",
            (
                (made.time, made.version, made.source, made.model_dump_json())
                for row in rows[::EVERY]
                for made in _others(*row)
            ),
        )
        begins = np.flatnonzero(np.diff(version_N, prepend=0)).tolist()
        db.executemany(
            f"INSERT INTO journal ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (entry for begin in begins for entry in _entries(rows[begin][0], rows[begin][1], levels)),
        )


def _levels(versions: int) -> Iterator[float]:
    """The entropy of each version: of the base, and of those that RL and reheats made."""
    level = BASELINE
    yield level
    for _ in range(versions):
        level = REHEATED if level < COLLAPSED else min(level * SHARPENED, REHEATED)
        yield level


def _windows(rows: list[tuple[float, int, float]]) -> Iterator[str]:
    for at, version, mean in rows:
        verdict: Verdict = "collapsed" if mean < COLLAPSED else "warning" if mean < 1.2 * COLLAPSED else "ok"
        made = Window.model_construct(
            time=at,
            version=version,
            model=model_name(version),
            source="schedule",
            verdict=verdict,
            detector=DetectorState(version=version, verdict=verdict),
            baseline=BASELINE,
            ratio=mean / BASELINE,
            threshold=COLLAPSED,
            estimate=_estimate(mean),
            monte_carlo=_estimate(mean, 0.08),
            truncated=_estimate(0.8 * mean),
            lower=0.9 * mean,
            upper=1.2 * mean,
            distinct=0.97,
            seed=7,
            seconds=1.4,
            by_position=_by_position(mean),
        )
        yield made.model_dump_json()


def _others(at: float, version: int, mean: float) -> Iterator[LiveWindow]:
    for source, by, share in (("live", "tap", 0.9), ("probe", "tap", 1.0), ("rollout", "monte_carlo", 1.1)):
        yield LiveWindow.model_construct(
            time=at,
            version=f"rl-{version:08x}" if source == "rollout" else version_name(version),
            source=source,
            measured_by=by,
            estimate=_estimate(share * mean, 0.08),
            by_position=_by_position(share * mean),
            parent=None,
            step=3 if source == "rollout" else None,
        )


def _estimate(mean: float, width: float = 0.05) -> EntropyEstimate:
    return EntropyEstimate.model_construct(
        mean=mean, low=(1 - width) * mean, high=(1 + width) * mean, tokens=6144, sequences=48
    )


def _by_position(mean: float) -> list[PositionMean]:
    """Answers begin undecided, and grow certain."""
    return [
        PositionMean.model_construct(position=position, tokens=48 * max(position, 1), mean=mean * share)
        for position, share in ((0, 1.9), (1, 1.6), (2, 1.4), (4, 1.25), (8, 1.1), (16, 1.0), (32, 0.95), (64, 0.9))
    ]


def _entries(at: float, version: int, levels: list[float]) -> Iterator[tuple[object, ...]]:
    """What the journal says around the promotion of a version at this time."""
    parent = levels[version - 1]
    collapsed = parent < COLLAPSED
    job = f"{'reheat' if collapsed else 'rl'}-{version:08x}"
    name, before = version_name(version), version_name(version - 1)
    by_hand = not collapsed and version % 5 == 1
    state = "collapsed" if collapsed else "serving"
    if collapsed:
        why = f"collapsed: entropy of {before} is {parent:.3f} nats per token, {parent / BASELINE:.0%} of the baseline"
        yield at - 400, "transition", "serving", "collapsed", why, None, version - 1, None
    if by_hand:
        yield at - 399, "requested", state, state, f"{job} submitted", job, None, "ops"
    trigger = "collapse" if collapsed else "manual" if by_hand else "round"
    training = "reheating" if collapsed else "continuing_rl"
    yield at - 398, "transition", state, training, f"{job} ({trigger}) dispatched from {before}", job, version - 1, None
    yield at - 6, "transition", training, "gating", f"{job} trained 9 steps, stopped by target", job, version, None
    yield at - 2, "transition", "gating", "swapping", f"{name} passed the gates", job, version, None
    yield at, "promoted", "swapping", "swapping", f"{name} by {job} is promoted", job, version, None
    yield at, "transition", "swapping", "serving", f"{name} by {job} is promoted", job, version, None
