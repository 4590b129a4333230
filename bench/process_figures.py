"""What the processes of a daemon hold, sampled while it runs: memory and open files, by what a process is for."""

import asyncio
import statistics
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import psutil

SAMPLE_S = 2.0
MIB = 1 << 20
ROLES = (
    ("valkey-server", "broker"),
    ("guard.py", "guards"),
    ("EngineCore", "engine core"),
    ("reheatd.engine.server", "engine"),
    ("workers.rewards.child", "rewards"),
    ("ForkPoolWorker", "job"),  # Celery changes the command lines of its processes, and so does vLLM
    ("[celeryd:", "worker"),
    ("cli.main", "daemon"),
)
"""Parts of command lines, and what a process with such a part is for; the first that fits counts."""


@dataclass(frozen=True)
class Sample:
    at: float
    """Seconds since the sampling began."""
    rss_mib: float
    """Resident memory. Unlike the proportional share, it does not change when a child is forked."""
    files: int


@dataclass
class Sampler:
    """Samples a process and its descendants."""

    root: psutil.Process
    samples: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))
    """By role and, for what is restarted for each job, by the role alone: the newest process counts."""
    _began: float = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self._began = asyncio.get_running_loop().time()
        task = asyncio.create_task(self._sample())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _sample(self) -> None:
        while True:
            now = asyncio.get_running_loop().time() - self._began
            for role, sample in (await asyncio.to_thread(measure, self.root, now)).items():
                self.samples[role].append(sample)
            await asyncio.sleep(SAMPLE_S)


def measure(root: psutil.Process, now: float) -> dict[str, Sample]:
    """One sample of each role; processes with the same role are added up."""
    found: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for process in [root, *root.children(recursive=True)]:
        try:
            with process.oneshot():
                role = role_of(" ".join(process.cmdline()))
                if role is not None:
                    found[role].append((process.memory_info().rss / MIB, process.num_fds()))
        except psutil.Error:  # it has just ended
            continue
    return {
        role: Sample(now, sum(rss for rss, _ in parts), sum(files for _, files in parts))
        for role, parts in found.items()
    }


def role_of(command: str) -> str | None:
    """What the process with this command line is for."""
    return next((role for part, role in ROLES if part in command), None)


@dataclass(frozen=True)
class Growth:
    """How a role changed from the first part of the time after warm-up to the last part."""

    role: str
    first_mib: float
    last_mib: float
    first_files: float
    last_files: float

    @property
    def percent(self) -> float:
        return 100 * (self.last_mib / self.first_mib - 1)

    @property
    def files_percent(self) -> float:
        return 100 * (self.last_files / self.first_files - 1)


LASTING = ("daemon", "engine", "engine core", "broker", "worker", "guards")
"""What lives as long as the daemon. A job's process is a new one for each job, so it has no growth."""


def growths(samples: dict[str, list[Sample]], warm_up_s: float) -> list[Growth]:
    """The growth of each lasting role, by medians over the first and the last quarter of the time after `warm_up_s`."""
    found = []
    for role in LASTING:
        after = [sample for sample in samples.get(role, ()) if sample.at >= warm_up_s]
        if len(after) < 8:
            continue
        quarter = len(after) // 4
        first, last = after[:quarter], after[-quarter:]
        found.append(
            Growth(
                role,
                statistics.median(sample.rss_mib for sample in first),
                statistics.median(sample.rss_mib for sample in last),
                statistics.median(sample.files for sample in first),
                statistics.median(sample.files for sample in last),
            )
        )
    return found
