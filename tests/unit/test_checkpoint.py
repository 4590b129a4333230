"""Jobs that are killed at any moment go on from their checkpoint and end with the very same weights."""

import multiprocessing
import random
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch

from reheatd.errors import CheckpointError
from reheatd.jobs.contracts import ReheatSpec, RLSpec
from reheatd.options import LoraOptions
from reheatd.task_data import Problem
from tests.unit.workers_support import NumberCodec, job_fields, number_prompts, tiny_model
from workers.checkpoint import Checkpoints
from workers.grpo import Grpo
from workers.policy import Policy
from workers.rewards.scoring import InProcessScorer
from workers.sampling.in_process import InProcessSampler
from workers.ts_opsd import Reheater

LORA = LoraOptions(rank=4, alpha=8)
KILLS = 10


class Announced:
    """A `Progress` that tells the other process."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def report(self, phase: str, step: int, metrics: dict[str, float] | None = None) -> None:
        self._connection.send((phase, step))


def reward(completion: str, answer: str) -> float:
    return float(sum(int(part) % 2 == 0 for part in completion.split()) / len(completion.split()) > 0.5)


def run(folder: Path, kind: str, connection: Connection) -> None:
    """A whole job on the tiny policy; the final weights are written to `folder`."""
    torch.set_num_threads(1)
    policy = Policy.on_model(tiny_model(), None, LORA)
    sampler = InProcessSampler(policy, NumberCodec(), number_prompts(8), probe_tokens=8)
    progress = Announced(connection)
    if kind == "reheat":
        fields: dict[str, Any] = {
            "target_entropy": 4.0,
            "learning_rate": 1e-4,
        }  # out of reach: it takes all of its steps
        spec = ReheatSpec(**job_fields(folder), **fields, steps=75, prompts_per_step=4, max_tokens=8, refresh_every=3)
        Reheater(policy, spec, sampler, number_prompts(40), progress, Checkpoints(spec)).run()
    else:
        spec = RLSpec(**job_fields(folder), steps=50, prompts_per_step=4, max_tokens=8, epochs=2, learning_rate=0.01)
        problems = [Problem(messages, "") for messages in number_prompts(10)]
        Grpo(policy, spec, sampler, problems, InProcessScorer(reward), progress, Checkpoints(spec)).run()
    torch.save(policy.parameters(), folder / "final.pt")
    connection.send("done")


class Job:
    """The job in a process of its own."""

    def __init__(self, folder: Path, kind: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=run, args=(folder, kind, theirs))
        self._process.start()
        theirs.close()

    def follow(self, reports: int | None = None) -> list[Any]:
        """What it announces until it ends, at most `reports`; then it is killed."""
        heard: list[Any] = []
        while len(heard) != reports:
            try:
                heard.append(self._connection.recv())
            except EOFError:
                break
        self._process.kill()
        self._process.join()
        return heard


@pytest.fixture
def undisturbed(tmp_path: Path, kind: str) -> list[torch.Tensor]:
    folder = tmp_path / "undisturbed"
    folder.mkdir()
    assert Job(folder, kind).follow()[-1] == "done"
    return torch.load(folder / "final.pt")


@pytest.mark.parametrize("kind", ["reheat", "rl"])
def test_ten_kills_leave_no_trace(tmp_path: Path, kind: str, undisturbed: list[torch.Tensor]) -> None:
    folder = tmp_path / "killed"
    folder.mkdir()
    generator = random.Random(kind)
    furthest = 0
    for _ in range(KILLS):
        heard = Job(folder, kind).follow(generator.randint(1, 14))
        assert "done" not in heard, "the job ended before it could be killed ten times"
        first = min(step for _, step in heard)
        assert first >= furthest, "it went back further than to its last checkpoint"
        furthest = max(furthest, first)
    assert furthest > 0, "it was never killed after a checkpoint"
    assert Job(folder, kind).follow()[-1] == "done"
    final = torch.load(folder / "final.pt")
    assert all(torch.equal(weight, other) for weight, other in zip(final, undisturbed, strict=True))


def saved(folder: Path) -> tuple[Policy, torch.optim.Optimizer, ReheatSpec]:
    policy = Policy.on_model(tiny_model(), None, LORA)
    optimizer = torch.optim.Adam(policy.parameters())
    spec = ReheatSpec(**job_fields(folder), tau=1.5)
    Checkpoints(spec).save(policy, optimizer, {"step": 3})
    return policy, optimizer, spec


def test_a_checkpoint_of_another_job_is_refused(tmp_path: Path) -> None:
    policy, optimizer, spec = saved(tmp_path)
    other = spec.model_copy(update={"tau": 1.6})
    with pytest.raises(CheckpointError, match="another specification"):
        Checkpoints(other).restore(policy, optimizer)
    assert Checkpoints(spec).restore(policy, optimizer) == {"step": 3}


def test_a_damaged_checkpoint_names_its_file(tmp_path: Path) -> None:
    policy, optimizer, spec = saved(tmp_path)
    file = Checkpoints(spec).file
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=str(file)):
        Checkpoints(spec).restore(policy, optimizer)
