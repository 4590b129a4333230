"""Runs recorded entropy windows through a detector, to see which verdicts a configuration would have given."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from reheatd.entropy.detector import CollapseDetector, DetectorState, Origin, Verdict
from reheatd.errors import BadInputError
from reheatd.json_lines import Place, json_lines, json_object, parse_json, read_file
from reheatd.measures import EntropyEstimate
from reheatd.text import shown
from reheatd.validation import first_problem

LARGEST = 1e11
"""No entropy, version or time of a recording is as large: as a time, it lies in the year 5138."""
EXPECTED = (
    "what `reheatd entropy --json` prints, or one window per line: "
    '{"mean": ..., "low": ..., "high": ...} with "version", "time" and "baseline" if wanted'
)


@dataclass(frozen=True)
class Recorded:
    """One recorded window, in nats per token."""

    estimate: EntropyEstimate
    baseline: float
    version: int = 1
    time: float | None = None
    """Time of the window in seconds since the epoch."""

    @property
    def origin(self) -> Origin:
        """How the version was made, as far as its number tells: a recording does not say which jobs were reheats."""
        return "rl" if self.version else "base"


@dataclass(frozen=True)
class Replayed:
    """A recorded window with the verdict of the detector."""

    time: float | None
    version: int
    estimate: EntropyEstimate
    baseline: float
    verdict: Verdict
    threshold: float
    """Entropy below which a policy has collapsed."""

    @property
    def ratio(self) -> float:
        return self.estimate.mean / self.baseline


def read_recording(path: Path, baseline: float | None = None) -> list[Recorded]:
    """The windows in `path`, oldest first. The file holds the answer of `GET /reheatd/v1/entropy`, or JSON lines.

    Args:
        baseline: Entropy of the base policy, in nats per token; it takes the place of a recorded baseline.

    Raises:
        BadInputError: The file cannot be read, holds no window, or holds one that cannot be used; the message names it.
    """
    windows = [_window(place, entry, baseline) for place, entry in _entries(path)]
    if not windows:
        raise BadInputError(f"{path} holds no window; expected {EXPECTED}", param="file")
    return windows


def replay(windows: Sequence[Recorded], detector: CollapseDetector) -> list[Replayed]:
    """Gives each window the verdict after it."""
    state: DetectorState | None = None
    replayed = []
    for window in windows:
        state = detector.step(state, window.version, window.estimate, window.baseline, origin=window.origin)
        threshold = detector.thresholds(state.run, window.baseline).collapsed
        replayed.append(
            Replayed(window.time, window.version, window.estimate, window.baseline, state.verdict, threshold)
        )
    return replayed


def _entries(path: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yields each window as a JSON object, with its place."""
    content = read_file(path, "file")
    try:
        whole = parse_json(content)
    except ValueError:
        whole = None
    if isinstance(whole, dict) and isinstance(whole.get("windows"), list):
        for number, entry in enumerate(whole["windows"], 1):
            place = Place(f"{path}, window {number}", EXPECTED, "file")
            yield place, json_object(place, entry)
    else:
        yield from json_lines(content, str(path), expected=EXPECTED, param="file")


def _window(place: Place, entry: dict[str, Any], baseline: float | None) -> Recorded:
    bare = {"tokens": 0, "sequences": 0} | {key: entry[key] for key in EntropyEstimate.model_fields if key in entry}
    try:
        estimate = EntropyEstimate.model_validate(entry.get("estimate", bare))
    except ValidationError as error:
        raise place.error(first_problem(error)[1]) from error
    reference = entry.get("baseline") if baseline is None else baseline
    if not isinstance(reference, int | float) or not 0 < reference < LARGEST:
        raise BadInputError(
            f"{place.where}: baseline = {shown(reference)} is not an entropy above 0; "
            "name the base policy's entropy with --baseline",
            param="baseline",
        )
    version, time = entry.get("version", 1), entry.get("time")
    if not isinstance(version, int) or not isinstance(time, int | float | None):
        raise place.error(f"version = {shown(version)} and time = {shown(time)} must be numbers")
    if not 0 <= version < LARGEST or not 0 <= (time or 0) < LARGEST:
        raise place.error(f"version = {shown(version)} or time = {shown(time)} is out of range")
    return Recorded(estimate, float(reference), version, time)
