"""The process of one tracker: follows the jobs of the daemon that started it until it is told to stop.

The daemon neither waits for it nor imports the tracker's package. It reads the daemon's database and the curves that
workers write. As nobody can tell it of news, it looks every few seconds. It runs with the least priority.
"""

import logging
import os
import signal
import sys
import threading
from pathlib import Path

from pydantic import Field

from reheatd.errors import ReheatdError
from reheatd.jobs.store import JobReader
from reheatd.measures import Contract
from reheatd.trackers.follower import Follower, end_process, in_one_line
from reheatd.trackers.installed import load_tracker
from reheatd.trackers.progress import ProgressFile, pause_s, progress_file
from reheatd.trackers.tracker import TrackerSetup

TASK_VARIABLE = "REHEATD_TRACKER"
"""Variable of the environment that holds the process's `TrackerTask` as JSON."""
LOOK_EVERY_S = 2.0


class TrackerTask(Contract):
    """What the process of a tracker is to do."""

    name: str
    data_dir: Path
    database: Path
    adapters_dir: Path
    policy: str
    project: str
    folder: Path
    mlflow_uri: str | None = Field(default=None, repr=False)


def main() -> None:
    task = TrackerTask.model_validate_json(os.environ[TASK_VARIABLE])
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    os.nice(19)
    try:
        jobs = JobReader(task.database)
        state = ProgressFile(progress_file(task.data_dir, task.name), jobs)
        state.save()
    except (OSError, ReheatdError) as error:
        end_process(in_one_line(error))
    follow(task, jobs, state, stop)


def follow(task: TrackerTask, jobs: JobReader, state: ProgressFile, stop: threading.Event) -> None:
    """Follows the jobs until `stop` is set; after a failure, ends the process, and the supervisor starts another."""
    try:
        tracker = load_tracker(task.name, TrackerSetup(task.project, task.folder, task.mlflow_uri))
    except Exception as error:  # the package of others may raise anything while it is imported
        failed = state.progress.starts_failed
        state.progress.problem, state.progress.starts_failed = in_one_line(error), failed + 1
        state.save()
        stop.wait(pause_s(failed))
        end_process(f"{task.name} cannot be used: {state.progress.problem}")
    state.progress.problem, state.progress.starts_failed = None, 0
    state.save()
    follower = Follower(task.name, tracker, jobs, state, policy=task.policy, adapters_dir=task.adapters_dir)
    is_last = False
    while not is_last:
        is_last = stop.is_set()
        if not follower.look():
            end_process(f"{follower.problem}; it is sent again later")
        stop.wait(LOOK_EVERY_S)
    follower.pause()


if __name__ == "__main__":
    main()
