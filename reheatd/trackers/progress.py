"""How far a tracker is with each job: a file that survives the tracker's process, and that the daemon reads."""

import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from reheatd.errors import ReheatdError
from reheatd.files import write_atomically
from reheatd.jobs.store import JobReader
from reheatd.measures import Contract
from reheatd.trackers.tracker import Point

FIRST_PAUSE_S = 10.0
LONGEST_PAUSE_S = 600.0
GIVE_UP_S = 7 * 86_400.0
"""A job that is over, and that a tracker has not taken for so long, is given up. Its own files stay."""
MOST_LOST = 20
"""Lost jobs that are remembered, the newest ones."""


def pause_s(failures: int) -> float:
    """Pause after a failure, in seconds.

    Args:
        failures: Failures in a row before that one.
    """
    return min(FIRST_PAUSE_S * 2.0 ** min(failures, 10), LONGEST_PAUSE_S)


class JobProgress(Contract):
    """How far a tracker is with one job."""

    sent: dict[str, int] = Field(default_factory=dict)
    """The last step that was sent of each metric. What a resumed job measures again is not sent again."""
    failures: int = 0
    """Failures in a row."""
    failing_since: float | None = None
    """When the first of them was, in seconds since the epoch."""
    retry_at: float = 0.0
    """When the next attempt is due."""
    problem: str | None = None
    """The last failure, in one line."""

    def news(self, points: Sequence[Point]) -> list[Point]:
        """The points without what was sent."""
        fresh = (
            (point, {name: value for name, value in point.metrics.items() if point.step > self.sent.get(name, -1)})
            for point in points
        )
        return [Point(point.row, point.step, metrics) for point, metrics in fresh if metrics]

    def took(self, points: Sequence[Point]) -> None:
        """Notes that the tracker has taken points."""
        for point in points:
            self.sent.update(dict.fromkeys(point.metrics, point.step))

    def failed(self, problem: str) -> None:
        """Notes a failure. The pause before the next attempt doubles each time."""
        now = time.time()
        self.failing_since = self.failing_since or now
        self.retry_at, self.problem = now + pause_s(self.failures), problem
        self.failures += 1

    def recovered(self) -> None:
        """Notes that there was no failure this time."""
        self.failures, self.failing_since, self.retry_at, self.problem = 0, None, 0.0, None

    @property
    def is_hopeless(self) -> bool:
        return self.failing_since is not None and time.time() - self.failing_since > GIVE_UP_S


class TrackerProgress(Contract):
    """How far a tracker is."""

    first: int
    """Number of the first job that the tracker may need; those before were over when it was set up, or are done."""
    done: list[int] = Field(default_factory=list)
    """Numbers of the jobs from there on that it needs no more."""
    jobs: dict[str, JobProgress] = Field(default_factory=dict)
    """The jobs that it is at, by id."""
    lost: dict[str, str] = Field(default_factory=dict)
    """Jobs that were given up, with the reason."""
    problem: str | None = None
    """Why the tracker cannot be used at all, in one line."""
    starts_failed: int = 0
    """How often in a row that was so."""

    def is_open(self, number: int) -> bool:
        return number >= self.first and number not in self.done

    def finish(self, number: int, job_id: str) -> None:
        """Notes that the tracker needs a job no more."""
        self.jobs.pop(job_id, None)
        self.done.append(number)

    def advance(self, numbers: Sequence[int]) -> None:
        """Forgets the jobs at the beginning that are done.

        Args:
            numbers: The numbers of all jobs from `first` on, rising; they have gaps.
        """
        open_ones = [number for number in numbers if number not in self.done]
        self.first = open_ones[0] if open_ones else max([self.first, *(number + 1 for number in numbers)])
        self.done = [number for number in self.done if number > self.first]

    def give_up(self, number: int, job_id: str) -> None:
        self.lost[job_id] = self.jobs[job_id].problem or ""
        self.lost = dict(list(self.lost.items())[-MOST_LOST:])
        self.finish(number, job_id)


class ProgressFile:
    """The file of one tracker's progress.

    Args:
        jobs: The daemon's jobs; a tracker without a file gets those that are not over, and all later ones. So does one
            whose file is about jobs that this database has never had.

    Raises:
        ReheatdError: The file is damaged or cannot be read.
    """

    def __init__(self, file: Path, jobs: JobReader) -> None:
        self._file = file
        found = read_progress(file)
        if found is None or found.first > jobs.newest + 1:
            found = TrackerProgress(first=jobs.first_open())
        self.progress = found

    def save(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._file, self.progress.model_dump_json().encode())


def progress_file(data_dir: Path, tracker: str) -> Path:
    return data_dir / "trackers" / f"{tracker}.json"


def read_progress(file: Path) -> TrackerProgress | None:
    """The progress in a file; None if there is none yet.

    Raises:
        ReheatdError: The file is damaged or cannot be read.
    """
    try:
        return TrackerProgress.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise ReheatdError(
            f"{file} cannot be read as a tracker's progress; delete it, and the tracker begins with the jobs that are "
            "not over"
        ) from error
