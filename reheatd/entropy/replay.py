"""Recorded entropy windows run through a detector: what a configuration would have said."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reheatd.entropy.detector import CollapseDetector, DetectorState, Verdict
from reheatd.errors import BadInputError
from reheatd.measures import EntropyEstimate

EXPECTED = (
    "expected what `reheatd entropy --json` prints, or one window per line: "
    '{"mean": ..., "low": ..., "high": ...} with, if wanted, "version", "time" and "baseline"'
)


@dataclass(frozen=True)
class Recorded:
    """One recorded window, nats per token."""

    estimate: EntropyEstimate
    baseline: float
    version: int = 1
    time: float | None = None
    """Seconds since the epoch."""


@dataclass(frozen=True)
class Replayed:
    """A recorded window with the verdict of the detector that it was run through."""

    time: float | None
    version: int
    estimate: EntropyEstimate
    baseline: float
    verdict: Verdict
    streak: int

    @property
    def ratio(self) -> float:
        return self.estimate.mean / self.baseline


def read_recording(path: Path, baseline: float | None = None) -> list[Recorded]:
    """The windows in `path`, oldest first: the answer of `GET /reheatd/v1/entropy`, or JSON lines.

    Args:
        baseline: Entropy of the reference policy, nats per token; takes the place of a recorded one.

    Raises:
        BadInputError: The file cannot be read, holds no window, or one that cannot be used; the message names it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise BadInputError(f"{path} cannot be read: {reason}", param="file") from error
    windows = [_window(entry, where, baseline) for where, entry in _entries(text, path)]
    if not windows:
        raise BadInputError(f"{path} holds no window; {EXPECTED}", param="file")
    return windows


def replay(windows: Sequence[Recorded], detector: CollapseDetector) -> list[Replayed]:
    """Each window with the verdict after it."""
    state: DetectorState | None = None
    replayed = []
    for window in windows:
        state = detector.step(state, window.version, window.estimate, window.baseline)
        replayed.append(
            Replayed(window.time, window.version, window.estimate, window.baseline, state.verdict, state.streak)
        )
    return replayed


def _entries(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    """(where it stands, one window as JSON)."""
    try:
        whole = json.loads(text)
    except ValueError:
        whole = None
    if isinstance(whole, dict) and isinstance(whole.get("windows"), list):
        for index, entry in enumerate(whole["windows"], 1):
            yield f"{path}, window {index}", entry
        return
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"{path}, line {number}", json.loads(line)
            except ValueError as error:
                raise BadInputError(f"{path}, line {number} is not valid JSON ({error}); {EXPECTED}") from error


def _window(entry: Any, where: str, baseline: float | None) -> Recorded:
    if not isinstance(entry, dict):
        raise BadInputError(f"{where} is no JSON object; {EXPECTED}", param="file")
    bare = {"tokens": 0, "sequences": 0} | {key: entry[key] for key in EntropyEstimate.model_fields if key in entry}
    try:
        estimate = EntropyEstimate.model_validate(entry.get("estimate", bare))
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInputError(f"{where}: {first['loc'][0]}: {first['msg']}; {EXPECTED}", param="file") from error
    reference = entry.get("baseline") if baseline is None else baseline
    if not isinstance(reference, int | float) or not reference > 0:
        raise BadInputError(
            f"{where}: baseline = {reference!r} is no entropy above 0; name the reference policy's with --baseline",
            param="baseline",
        )
    version, time = entry.get("version", 1), entry.get("time")
    if not isinstance(version, int) or not isinstance(time, int | float | None):
        raise BadInputError(f"{where}: version = {version!r} and time = {time!r} must be numbers", param="file")
    return Recorded(estimate, float(reference), version, time)
