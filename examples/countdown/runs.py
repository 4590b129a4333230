"""Runs of the experiment, in parallel with one thread each; results are kept for an experiment that is interrupted.

Only the processes that run something import torch, which takes seconds; that is why some imports are inside functions.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from examples.countdown.plan import Plan
from examples.countdown.records import Record, Stage
from reheatd.errors import BadInputError
from reheatd.files import write_atomically

T = TypeVar("T")
U = TypeVar("U")

SECONDS = "seconds.txt"
RULE = "rule"
"""The arm of the cascade in which the daemon's rule says when to act; in the other one, RL only goes on."""


@dataclass(frozen=True)
class Run:
    stage: Stage
    seed: int
    where: str = ""
    """Name of the collapse or of the scenario; a cascade has none."""
    arm: str = ""
    """Name of the arm, of a scenario or of the cascade."""

    @property
    def name(self) -> str:
        return "-".join(part for part in (self.stage, self.where, self.arm, f"seed{self.seed}") if part)


class Runs:
    """The results of a plan's runs in a folder, with the policies that they start from.

    Raises:
        BadInputError: The folder has results for other sizes.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._plan = plan
        sizes, settings = json.loads(json.dumps(plan.sizes)), folder / "sizes.json"
        if not settings.exists():
            write_atomically(settings, json.dumps(sizes, indent=2).encode())
        elif json.loads(settings.read_text()) != sizes:
            raise BadInputError(f"{folder} has results for other sizes than those of {plan.name}; use --fresh")

    def pretrain(self) -> None:
        """Makes the pretrained policies that are missing."""
        with self._clock():
            for seed, _ in in_parallel(partial(_pretrain, self._folder, self._plan), self._plan.seeds):
                print(f"policy of seed {seed} is pretrained", flush=True)

    def perform(self, runs: Sequence[Run]) -> dict[Run, Record]:
        """Returns the results of `runs`; those that the folder does not have are run, in this order."""
        missing = [run for run in runs if not self._file(run).exists()]
        finished = in_parallel(partial(_perform, self._folder, self._plan), missing)
        with self._clock():
            for number, (run, record) in enumerate(finished, start=1):
                write_atomically(self._file(run), record.model_dump_json().encode())
                last = record.curves[-1].points[-1]
                print(
                    f"{number}/{len(missing)} {run.name}: pass@1 {last.pass1:.3f}, pass@16 {last.pass16:.3f}, "
                    f"entropy {last.entropy:.3f} in {record.cpu_seconds:.1f} s of one core",
                    flush=True,
                )
        return {run: self._read(run) for run in runs}

    @property
    def seconds(self) -> float:
        """Time that all of it took, before interruptions as well."""
        file = self._folder / SECONDS
        return float(file.read_text()) if file.exists() else 0.0

    @contextmanager
    def _clock(self) -> Iterator[None]:
        """Adds the time that passes inside to `seconds`."""
        started = time.monotonic()
        try:
            yield
        finally:
            write_atomically(self._folder / SECONDS, str(self.seconds + time.monotonic() - started).encode())

    def _read(self, run: Run) -> Record:
        return Record.model_validate_json(self._file(run).read_bytes())

    def _file(self, run: Run) -> Path:
        return self._folder / f"{run.name}.json"


def in_parallel(work: Callable[[T], U], items: Sequence[T]) -> Iterator[tuple[T, U]]:
    """Yields items with their results as they are finished, with one single-threaded process per core."""
    processes = max(1, min(len(items), len(os.sched_getaffinity(0))))
    # Children forked from here would inherit torch's threads in an undefined state. The fork server has imported
    # everything, once, and computed nothing.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["examples.countdown.stages"])
    with ProcessPoolExecutor(processes, context, initializer=_begin_process) as pool:
        waiting = {pool.submit(work, item): item for item in items}
        for finished in as_completed(waiting):
            yield waiting[finished], finished.result()


def _begin_process() -> None:
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.disable_progress_bar()  # a bar for every policy that is read would hide the results


def _pretrain(folder: Path, plan: Plan, seed: int) -> None:
    from examples.countdown.stages import Stages

    Stages(plan, folder, seed).pretrain()


def _perform(folder: Path, plan: Plan, run: Run) -> Record:
    from examples.countdown.stages import Stages

    stages = Stages(plan, folder, run.seed)
    if run.stage == "collapse":
        return stages.collapse(run.where)
    if run.stage == "decision":
        return stages.decide(run.where)
    if run.stage == "arm":
        return stages.arm(run.where, run.arm)
    return stages.cascade(acts=run.arm == RULE)
