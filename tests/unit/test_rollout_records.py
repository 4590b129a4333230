"""The entropies of rollouts' tokens, which training computes and the records of the rollouts get."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reheatd.jobs.contracts import ReheatSpec, RLSpec
from reheatd.jobs.rollout_pages import RolloutFilter, read_page
from reheatd.jobs.rollouts import RolloutRecorder, RolloutRow, read_rollouts
from reheatd.options import LoraOptions
from reheatd.task_data import Problem
from tests.unit.workers_support import RecordingSampler, SilentProgress, job_fields, number_prompts, tiny_model
from workers.policy import Policy
from workers.remedies import make_trainer
from workers.rewards.scoring import InProcessScorer
from workers.sampling.recording import Recording
from workers.sampling.rollout import Rollout

LORA = LoraOptions(rank=4, alpha=8)


class Served(RecordingSampler):
    """A sampler that does not tell entropies, as an engine; `exact` are those of each completion."""

    exact: dict[str, list[float]]

    def sample(self, *args: Any, **kwargs: Any) -> list[list[Rollout]]:
        groups = super().sample(*args, **kwargs)
        self.exact |= {rollout.text: rollout.entropies or [] for group in groups for rollout in group}
        return [[replace(rollout, entropies=None) for rollout in group] for group in groups]


def trained(spec: RLSpec | ReheatSpec, *, keep: int = 1000) -> tuple[list[RolloutRow], dict[str, list[float]]]:
    """The rollouts that are kept of a job, and the exact entropies of all."""
    policy = Policy.on_model(tiny_model(), None, LORA)
    sampler = Served(policy, number_prompts(4))
    sampler.exact = {}
    recording = Recording(
        RolloutRecorder(spec.rollouts_file, steps=spec.steps, keep=keep), lambda ids: [f" {number}" for number in ids]
    )
    problems = [Problem(messages, str(number)) for number, messages in enumerate(number_prompts(20))]
    scorer = InProcessScorer(lambda completion, answer: int(completion.split()[0]) % 2)
    make_trainer(policy, spec, sampler, problems, scorer, SilentProgress(), None, recording).run()
    return read_rollouts(spec.rollouts_file), sampler.exact


def check(row: RolloutRow, exact: dict[str, list[float]]) -> None:
    assert row.by_token is not None
    assert row.by_token.entropies == pytest.approx(exact[row.completion], abs=0.01)


@pytest.mark.parametrize("minibatches", [1, 2])
def test_rl_tells_the_entropies_of_what_it_learns_from(tmp_path: Path, minibatches: int) -> None:
    fields: dict[str, Any] = {
        "prompts_per_step": 2,
        "group_size": 3,
        "max_tokens": 6,
        "steps": 3,
        "minibatches": minibatches,
    }
    spec = RLSpec(**job_fields(tmp_path), **fields, learning_rate=0.02)
    rows, exact = trained(spec)
    learned = [row for row in rows if row.advantage is not None]
    others = [row for row in rows if row.advantage is None]
    assert learned and others
    for row in learned:
        check(row, exact)
    assert all(row.by_token is not None and row.by_token.entropies is None for row in others)
    page = read_page(spec.rollouts_file, RolloutFilter(), 1, 1000)
    assert [row for _, row in sorted(page.rows, key=lambda each: each[0])] == rows


def test_only_what_is_kept_is_told(tmp_path: Path) -> None:
    spec = RLSpec(**job_fields(tmp_path), prompts_per_step=2, group_size=4, max_tokens=6, steps=4, entropy_bonus=0.001)
    rows, exact = trained(spec, keep=4)
    assert [row.step for row in rows] == [0, 1, 2, 3], "one of each step"
    for row in rows:
        check(row, exact)
    assert len((tmp_path / "token-entropies.jsonl").read_text().splitlines()) == 4


def test_a_reheat_tells_the_entropies_of_its_rollouts(tmp_path: Path) -> None:
    spec = ReheatSpec(**job_fields(tmp_path), tau=1.5, prompts_per_step=4, refresh_every=2, max_tokens=6, steps=4)
    rows, exact = trained(spec)
    assert len(rows) == 16
    with_entropies = [row for row in rows if row.by_token is not None and row.by_token.entropies is not None]
    assert len(with_entropies) == 16
    for row in rows[:4]:  # the policy trains in between, and those of the second half come from an older one
        check(row, exact)


def test_a_resumed_job_tells_its_steps_again(tmp_path: Path) -> None:
    file = tmp_path / "rollouts.jsonl"
    rollout = Rollout([1], [2, 3], "a b", [-0.5, -0.5], "m", False)
    for entropy in (0.25, 0.75):
        recording = Recording(RolloutRecorder(file, steps=9, keep=9), lambda ids: ["x"] * len(ids))
        recording.keep(3, [], [rollout])
        recording.learned(rollout.token_ids, lambda entropy=entropy: [entropy, entropy])
        recording.learned([2, 3], lambda: [9.0, 9.0])  # of no rollout that is kept
    (row,) = read_rollouts(file)
    assert row.by_token is not None and row.by_token.entropies == [0.75, 0.75]
