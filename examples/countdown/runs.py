"""Runs of the experiment, in parallel with one thread each; results are kept for an experiment that is interrupted."""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

import torch

from examples.countdown.arms import Choice, Measured, Sizes, collapse, run_arm
from examples.countdown.task import Split
from reheatd.errors import BadInputError
from reheatd.files import write_atomically

T = TypeVar("T")
U = TypeVar("U")

PRETRAINED = "pretrained"


@dataclass(frozen=True)
class Run:
    arm: Literal["collapse", "continued", "hot", "reheat", "fold"]
    choice: Choice
    split: Split
    """Split of the problems that the run is measured on."""
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arm}-{self.split}-seed{self.seed}-lr{self.choice.learning_rate:g}-tau{self.choice.tau:g}"


class Runs:
    """The results in a folder, which also holds the pretrained policy as `PRETRAINED`.

    Raises:
        BadInputError: The folder has results for other sizes.
    """

    def __init__(self, folder: Path, sizes: Sizes) -> None:
        self._folder = folder
        self._sizes = sizes
        settings = folder / "sizes.json"
        if not settings.exists():
            write_atomically(settings, json.dumps(asdict(sizes), indent=2).encode())
        elif json.loads(settings.read_text()) != asdict(sizes):
            raise BadInputError(f"{folder} has results for sizes other than {sizes}; start over with --fresh")

    def perform(self, runs: Sequence[Run]) -> dict[Run, list[Measured]]:
        """Returns the results of `runs`; those that the folder does not have are run, one per core at a time."""
        missing = [run for run in runs if not self._file(run).exists()]
        finished = in_parallel(partial(_perform, folder=self._folder, sizes=self._sizes), missing)
        for number, (run, points) in enumerate(finished, start=1):
            write_atomically(self._file(run), json.dumps([asdict(point) for point in points]).encode())
            last = points[-1]
            print(
                f"{number}/{len(missing)} {run.name}: "
                f"pass@1 {last.pass1:.3f}, pass@16 {last.pass16:.3f}, entropy {last.entropy:.3f}",
                flush=True,
            )
        return {run: list(self._read(run)) for run in runs}

    def _read(self, run: Run) -> Iterator[Measured]:
        return (Measured(**point) for point in json.loads(self._file(run).read_text()))

    def _file(self, run: Run) -> Path:
        return self._folder / f"{run.name}.json"


def in_parallel(work: Callable[[T], U], items: Sequence[T]) -> Iterator[tuple[T, U]]:
    """Yields items with their results as they are finished, with one single-threaded process per core."""
    processes = max(1, min(len(items), len(os.sched_getaffinity(0))))
    # Children forked from here would inherit torch's threads in an undefined state. The fork server has imported
    # everything, once, and computed nothing.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["examples.countdown.arms"])
    with ProcessPoolExecutor(processes, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        waiting = {pool.submit(work, item): item for item in items}
        for finished in as_completed(waiting):
            yield waiting[finished], finished.result()


def _perform(run: Run, folder: Path, sizes: Sizes) -> list[Measured]:
    collapsed = folder / f"collapsed-{run.seed}"
    if run.arm == "collapse":
        return collapse(run.choice, folder / PRETRAINED, collapsed, sizes, run.split, run.seed)
    return run_arm(run.arm, run.choice, folder / PRETRAINED, collapsed, sizes, run.split, run.seed)
