"""A daemon that a command starts for itself, watches and tells about: what the demonstration and others share."""

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from cli.child_daemon import guarded_daemon
from cli.client import DaemonClient
from cli.screen import Screen
from reheatd.api.schemas import StatusView
from reheatd.control.journal import JournalEntry
from reheatd.entropy.windows import Window
from reheatd.errors import DaemonUnreachableError, EngineError, ReheatdError
from reheatd.jobs.contracts import Job, JobStatus

T = TypeVar("T")

POLL_S = 1.0
CHANGE = "{from_state} -> {to_state}"
TOLD_METRICS = ("tau", "loss", "entropy", "probe_entropy", "reward")


class WatchError(ReheatdError, RuntimeError):
    """The daemon that a command started for itself ended, or did not do in time what was waited for.

    What to do: The message has the last line of the daemon's log and names the file. `reheatd doctor` says what the
    machine lacks.
    """

    code = "daemon_failed"


@contextmanager
def watched_daemon(
    screen: Screen, config: Path | None, url: str, log_file: Path, environment: Mapping[str, str] | None = None
) -> Iterator["WatchedDaemon"]:
    """Starts a daemon, yields it once it is ready, and stops it at the end.

    Args:
        config: Configuration file of the daemon; default: as for `reheatd serve`.
        url: Address at which the configuration lets the daemon answer administration.
        log_file: File that gets the daemon's log.
        environment: Variables beside those of this process.

    Raises:
        WatchError: The daemon ended before it was ready.
    """
    with guarded_daemon(config, log_file, environment) as process:
        try:
            daemon = WatchedDaemon(screen, process, DaemonClient(url), log_file)
            daemon.wait("the daemon to be ready", daemon.is_ready)
            yield daemon
        finally:
            screen.say("stopping the daemon")


class WatchedDaemon:
    """Tells on a screen what the daemon records, while a command waits for something."""

    def __init__(
        self, screen: Screen, process: "subprocess.Popen[bytes]", client: DaemonClient, log_file: Path
    ) -> None:
        self.client = client
        self.log_file = log_file
        self._screen = screen
        self._process = process
        self._told_entries = 0
        self._told_windows = 0
        self._told_step = ("", 0)

    def wait(self, what: str, poll: Callable[[], T | None], *, timeout_s: float = float("inf")) -> T:
        """Polls until there is a result.

        Raises:
            WatchError: There was no result within `timeout_s`, or the daemon ended.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            if self._process.poll() is not None:
                last = self.log_file.read_text(errors="replace").strip().splitlines()[-1:]
                raise WatchError(f"the daemon ended while waiting for {what}: {' '.join(last)}")
            if (result := poll()) is not None:
                return result
            if time.monotonic() > deadline:
                raise WatchError(f"waited {timeout_s:.0f} s for {what}; see {self.log_file}")
            time.sleep(POLL_S)

    def is_ready(self) -> bool | None:
        """True once the daemon is ready, for `wait`."""
        try:
            return True if self.show().readiness == "ready" else None
        except (DaemonUnreachableError, EngineError):
            self._screen.show("the daemon starts")
            return None

    def tell(self) -> None:
        """Prints what is new: journal entries, entropy windows and steps of the running job."""
        entries = self.entries()
        for entry in entries[self._told_entries :]:
            what = {"promoted": "policy-v{version} is live", "requested": "{actor}"}.get(entry.event, CHANGE)
            self._screen.say(f"{what.format(**dict(entry))}: {entry.reason}", entry.time)
        self._told_entries = len(entries)
        windows = self.windows()
        for window in windows[self._told_windows :]:
            estimate = window.estimate
            self._screen.say(
                f"entropy of {window.model} {estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}], "
                f"{window.ratio:.0%} of baseline: {window.verdict}",
                window.time,
            )
        self._told_windows = len(windows)
        job = self.show().job
        if job and job.step and (job.job_id, job.step) != self._told_step:
            self._told_step = job.job_id, job.step
            metrics = ", ".join(f"{key} {job.metrics[key]:.3f}" for key in TOLD_METRICS if key in job.metrics)
            self._screen.say(f"  {job.job_id} step {job.step} of {job.steps}: {metrics}")

    def show(self) -> StatusView:
        """Shows what the daemon is doing, and returns its status."""
        status = self.status()
        job, measuring = status.job, status.measuring
        if status.readiness != "ready":
            self._screen.show(f"the daemon is {status.readiness}")
        elif job and job.status is JobStatus.RUNNING:
            step = f" step {job.step} of {job.steps}" if job.step else ""
            self._screen.show(f"{job.job_id}{step}: {job.phase}", job.done, job.of)
        elif measuring:
            what = f"{job.job_id} {job.status}: " if job else ""
            self._screen.show(f"{what}measuring the entropy of {measuring.model}", measuring.done, measuring.of)
        elif job:
            self._screen.show(f"{job.job_id} {job.status}")
        return status

    def status(self) -> StatusView:
        return self.client.status()

    def jobs(self) -> list[Job]:
        """All jobs, oldest first."""
        return sorted(self.client.jobs().jobs, key=lambda job: job.created_at)

    def entries(self) -> list[JournalEntry]:
        """The journal, oldest first."""
        return self.client.journal(last=1000).entries

    def windows(self, version: int | None = None) -> list[Window]:
        """All entropy windows, or those of one version, oldest first."""
        windows = self.client.entropy(last=1000).windows
        return [window for window in windows if version is None or window.version == version]
