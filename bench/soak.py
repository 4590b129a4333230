"""Runs a daemon under load for as long as told: `python -m bench.soak` (SOAK_MINUTES, default 30).

One round after the other, a policy is collapsed on purpose, noticed, reheated and trained on, and versions are swapped
back and forth, while clients of every kind keep asking. The run fails if a request or a job fails, or if a process
grows by more than 5% after warm-up.
"""

import asyncio
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

from bench.figures import Report
from bench.process_figures import LASTING, Growth, Sampler, growths
from bench.soak_load import Clients
from cli.demo import COLLAPSE
from reheatd.jobs.contracts import Job, JobStatus
from tests.daemon import Daemon, running
from tests.tiny_policy import build_tiny_policy

T = TypeVar("T")

WARM_UP = 0.4
"""Share of the time after which caches are taken to be full; a round of each kind of job fits into it."""
MOST_GROWTH = 5.0
"""Percent."""
KEPT = 6
"""Versions that stay when old ones are pruned after each round."""
SWAPS_BY_HAND = 4
"""Promotions by request per round, besides those of the jobs."""
POLL_S = 0.5
REWARD = '''
def reward(completion: str, answer: str) -> float:
    """Share of ASCII letters: a sampled completion always has some and never only those."""
    return sum(c.isascii() and c.isalpha() for c in completion) / max(len(completion), 1)
'''
TABLES: dict[str, dict[str, Any]] = {
    "entropy": {"interval_s": 10.0, "max_share": 1.0, "probe_count": 8, "max_tokens": 32},
    "task": {"reward": "letters:reward", "eval_count": 8, "eval_samples": 2},
    "control": {"cooldown_s": 0.0},
    "gate": {"accuracy_tolerance": 1.0, "entropy_tolerance": 0.5, "no_evidence": "pass"},
    "workers": {"report_rollouts": 4},
    "reheat": {"prompts_per_step": 8, "learning_rate": 5e-4, "max_tokens": 32},
    "rl": {"steps": 2, "max_tokens": 16},
}


class Soak:
    """One run.

    Args:
        until: Time of the monotonic clock at which no further round is begun.
    """

    def __init__(self, daemon: Daemon, until: float) -> None:
        self._daemon = daemon
        self._until = until
        self._version = 0
        self.clients = Clients(daemon.url, lambda: f"policy-v{self._version}" if self._version else "base")
        self.sampler = Sampler(psutil.Process(daemon.process.pid))
        self.swaps = 0
        self.rounds = 0
        self.unsuccessful: list[str] = []

    async def run(self) -> None:
        async with aiohttp.ClientSession(self._daemon.url) as self._http, self.sampler.running():
            await self._wait(self._baseline)
            async with self.clients.asking():
                while time.monotonic() < self._until:
                    await self._round()
                    self.rounds += 1

    async def _round(self) -> None:
        """The base is collapsed, the daemon reheats and trains it, and then versions take turns."""
        known = {job.job_id for job in await self._jobs()}
        if await self._promoted():
            await self._promote(0)
        await self._ask("POST", "/reheatd/v1/jobs", json=COLLAPSE)
        made: list[int] = []
        for trigger in ("manual", "collapse", "follow_up"):
            job = await self._wait(lambda trigger=trigger: self._ended(trigger, known))
            if job is None:
                return
            if job.status is not JobStatus.SUCCEEDED or job.version is None:
                self.unsuccessful.append(f"{job.job_id} {job.status}: {job.error or [g.detail for g in job.gates]}")
                return
            self.swaps += 1
            made.append(job.version)
            self._version = job.version
        for version in itertools.islice(itertools.cycle((made[1], made[2])), SWAPS_BY_HAND):
            await self._promote(version)
        await self._ask("POST", "/reheatd/v1/adapters/prune", json={"keep": KEPT})

    async def _promote(self, version: int) -> None:
        await self._ask("POST", f"/reheatd/v1/adapters/{version}/promote")
        self.swaps += 1

    async def _promoted(self) -> int:
        return (await self._ask("GET", "/reheatd/v1/status"))["promoted"]["version"]

    async def _baseline(self) -> bool:
        return (await self._ask("GET", "/reheatd/v1/status"))["baseline"] is not None

    async def _jobs(self) -> list[Job]:
        return [Job.model_validate(job) for job in (await self._ask("GET", "/reheatd/v1/jobs"))["jobs"]]

    async def _ended(self, trigger: str, known: set[str]) -> Job | None:
        """The new job with this trigger, once it is over."""
        jobs = [job for job in await self._jobs() if job.trigger == trigger and job.job_id not in known]
        return next((job for job in jobs if job.status.is_final), None)

    async def _wait(self, poll: Callable[[], Any]) -> Any:
        """Waits for a result; None if there is none within ten minutes after the end."""
        while not (found := await poll()):
            if time.monotonic() > self._until + 600:
                self.unsuccessful.append("a round did not end within ten minutes after the time was over")
                return None
            await asyncio.sleep(POLL_S)
        return found

    async def _ask(self, method: str, path: str, **arguments: Any) -> Any:
        async with self._http.request(method, path, **arguments) as answer:
            body = await answer.json()
            if answer.status >= 400:
                raise RuntimeError(f"{method} {path} answered {answer.status}: {body}")
            return body


def main() -> None:
    minutes = float(os.environ.get("SOAK_MINUTES", "30"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "letters.py").write_text(REWARD)
        problems = [{"prompt": f"Write the word number {number}.", "answer": "letters"} for number in range(80)]
        (folder / "task.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
        os.environ["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), name, os.environ.get("PYTHONPATH", "")])
        tables = TABLES | {"task": TABLES["task"] | {"path": str(folder / "task.jsonl")}}
        model = build_tiny_policy(folder / "policy")
        with running(folder, model, **tables) as daemon:
            soak = Soak(daemon, time.monotonic() + 60 * minutes)
            asyncio.run(soak.run())
            counted = daemon.http.get("/reheatd/v1/status").json()["requests"]
            log = daemon.log
    found = growths(soak.sampler.samples, WARM_UP * 60 * minutes)
    print_tables(soak, found)
    unseen = set(LASTING) - {growth.role for growth in found}
    failures = len(soak.clients.seen.failures) + len(soak.unsuccessful) + counted["failed"]
    tracebacks = log.count("Traceback (most recent call last)")
    report = Report("soak")
    report.result("requests", sum(soak.clients.seen.asked.values()))
    report.result("failures", failures)
    report.result("tracebacks", tracebacks)
    report.result("rounds", soak.rounds)
    report.result("swaps", soak.swaps)
    worst = max((growth.percent for growth in found), default=float("nan"))
    report.result("worst_growth", worst, "percent after warm-up")
    for growth in found:
        report.result(f"growth_{growth.role.replace(' ', '_')}", growth.percent, "percent")
    report.result("worst_growth_of_open_files", max((growth.files_percent for growth in found), default=0), "percent")
    report.result("latency_p50", float(np.percentile(soak.clients.seen.latencies, 50)) * 1e3, "ms")
    report.result("latency_p99", float(np.percentile(soak.clients.seen.latencies, 99)) * 1e3, "ms")
    report.write(minutes=minutes, warm_up=WARM_UP, failures=[*soak.clients.seen.failures[:20], *soak.unsuccessful])
    if unseen:
        sys.exit(f"reheatd: too few samples of {', '.join(sorted(unseen))}; run the soak for longer")
    if failures or tracebacks or not worst <= MOST_GROWTH:
        sys.exit("reheatd: the soak found what it should not: see the lines above")


def print_tables(soak: Soak, found: list[Growth]) -> None:
    console = Console()
    table = Table("process", "MiB first", "MiB last", "growth", "files first", "files last")
    for growth in found:
        table.add_row(
            growth.role,
            f"{growth.first_mib:.1f}",
            f"{growth.last_mib:.1f}",
            f"{growth.percent:+.1f}%",
            f"{growth.first_files:.0f}",
            f"{growth.last_files:.0f}",
        )
    console.print(table)
    seen = soak.clients.seen
    asked = ", ".join(f"{kind} {count}" for kind, count in sorted(seen.asked.items()))
    console.print(f"asked: {asked}; answered by {len(seen.by_version)} versions", highlight=False)
    for failure in [*seen.failures[:10], *soak.unsuccessful]:
        console.print(f"failed: {failure}", markup=False, highlight=False)


if __name__ == "__main__":
    main()
