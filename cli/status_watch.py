"""`reheatd status --watch`: a live screen in a terminal, and in a pipe a line for every change."""

import json
import time
from collections import deque

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from cli import render
from cli.status_facts import Watched, status_facts
from reheatd.api.schemas import StatusView
from reheatd.client import Client
from reheatd.errors import DaemonUnreachableError, EngineUnavailableError
from reheatd.jobs.contracts import Job

WATCH_S = 1.0
FIGURES_S = 5.0
"""Time between two looks at what changes slowly, in seconds."""
WINDOWS = 200
STEPS_KEPT = 10
"""Steps of a job from whose times the time that is left is estimated."""
AWAY = (DaemonUnreachableError, EngineUnavailableError)
"""What a daemon that is away, or that starts, lets a client see."""


def watch_screen(client: Client, first: StatusView) -> None:
    """Fills the terminal until somebody presses Ctrl-C."""
    observer = Observer(client, first)
    with Live(observer.screen(), console=render.console, screen=True, auto_refresh=False) as live:
        while True:
            observer.look()
            live.update(observer.screen(), refresh=True)
            time.sleep(WATCH_S)


def print_objects(client: Client) -> None:
    """Prints the status once a second as JSON, and an error object while the daemon is away."""
    while True:
        try:
            print(json.dumps(client.status().model_dump(mode="json")), flush=True)
        except AWAY as error:
            print(json.dumps(error.openai_object()), flush=True)
        time.sleep(WATCH_S)


def print_changes(client: Client) -> None:
    """Prints a line whenever something worth a line has changed."""
    told = ""
    while True:
        try:
            line = one_line(client.status())
        except AWAY as error:
            line = f"away: {error.message}"
        if line != told:
            print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)
        told = line
        time.sleep(WATCH_S)


def one_line(status: StatusView) -> str:
    """What somebody who reads a log wants to know: version, state, verdict, entropy, the running job and problems."""
    parts = [status.promoted.name, status.state.value if status.readiness == "ready" else status.readiness]
    if status.verdict is not None and status.entropy is not None:
        estimate = status.entropy
        parts.append(f"{status.verdict}, entropy {estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]")
    if status.job is not None:
        step = f" step {status.job.step} of {status.job.steps}" if status.job.steps else ""
        parts.append(f"{status.job.job_id} {status.job.status.value}{step}")
    parts += [f"{job.job_id} waits" for job in status.waiting]
    parts += [f"{pause.what} paused" for pause in status.paused]
    named = [(f"engine {engine.name}", engine) for engine in status.engines]
    named += [("workers", status.workers), ("broker", status.broker)]
    parts += [f"{name} down" for name, part in named if not part.ok]
    if status.problem is not None:
        parts.append(f"entropy cannot be measured: {status.problem}")
    return "  ".join(parts)


class Observer:
    """Looks at a daemon once in a while, and shows what it saw last."""

    def __init__(self, client: Client, first: StatusView) -> None:
        self._client = client
        self._status = first
        self._problem: str | None = None
        self._away_since: float | None = None
        self._entropies: list[float] = []
        self._pace = Pace()
        self._figures_at = -FIGURES_S

    def look(self) -> None:
        """Asks the daemon; if it is away, what was seen stays.

        Raises:
            ReheatdError: The daemon refuses to answer, for example without a key.
        """
        try:
            self._status = self._client.status()
            if time.monotonic() - self._figures_at >= FIGURES_S:
                self._entropies = [window.estimate.mean for window in self._client.entropy(last=WINDOWS).windows]
                self._figures_at = time.monotonic()
        except AWAY as error:
            self._problem = error.message
            self._away_since = self._away_since or time.monotonic()
            return
        self._problem = self._away_since = None
        self._pace.add(time.monotonic(), self._status.job)

    def screen(self) -> RenderableType:
        watched = Watched(self._entropies, left_s=self._pace.left_s(self._status.job, time.time()))
        facts = status_facts(self._status, watched)
        foot = Text(f"{self._client.url}, every second; Ctrl-C leaves", style="dim")
        if self._problem is None or self._away_since is None:
            return Group(facts, foot)
        ago = render.duration(time.monotonic() - self._away_since)
        away = Text(f"away for {ago}: {self._problem}", style="bold red")
        return Group(away, Text("what was seen last:", style="dim"), facts, foot)


class Pace:
    """How fast the running job takes its steps."""

    def __init__(self) -> None:
        self._job_id = ""
        self._seen: deque[tuple[float, int]] = deque(maxlen=STEPS_KEPT)
        """When a step was first seen, and its number."""

    def add(self, now: float, job: Job | None) -> None:
        if job is None or job.job_id != self._job_id or (self._seen and job.step < self._seen[-1][1]):
            self._seen.clear()
        self._job_id = "" if job is None else job.job_id
        if job is not None and (not self._seen or job.step > self._seen[-1][1]):
            self._seen.append((now, job.step))

    def left_s(self, job: Job | None, now: float) -> float | None:
        """Seconds until the job has taken all its steps.

        Args:
            now: Seconds since the epoch.
        """
        if job is None or not job.steps:
            return None
        left = job.steps - job.step
        # The first one was seen somewhere between two steps, so the pace is taken from the others.
        if len(self._seen) > 2:
            (began, first), (ended, last) = self._seen[1], self._seen[-1]
            return left * (ended - began) / (last - first)
        if job.step and job.started_at is not None and now > job.started_at:
            return left * (now - job.started_at) / job.step
        return None
