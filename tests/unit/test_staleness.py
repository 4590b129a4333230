"""Continued RL that samples the next rollouts while a step trains."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from reheatd.config import load_settings
from reheatd.errors import ConfigError, EngineError
from reheatd.jobs.contracts import ReheatSpec, RLSpec
from reheatd.jobs.rollouts import RolloutRecorder, read_rollouts
from reheatd.options import LoraOptions, RLOptions
from reheatd.task_data import Problem
from tests.unit.workers_support import RecordingSampler, SilentProgress, job_fields, number_prompts, tiny_model
from tests.waiting import HANGS_S
from workers.checkpoint import Checkpoints
from workers.grpo import Grpo, RLOutcome
from workers.policy import Policy
from workers.progress import JobCancelledError
from workers.remedies import rl_of
from workers.rewards.scoring import InProcessScorer
from workers.rl_learner import Learner
from workers.sampling.background import Background
from workers.sampling.groups import ScoredRollout
from workers.sampling.recording import Recording
from workers.sampling.rollout import Rollout

T = TypeVar("T")

LORA = LoraOptions(rank=4, alpha=8)
FIELDS: dict[str, Any] = {"prompts_per_step": 4, "group_size": 4, "max_tokens": 8, "learning_rate": 0.01}


class EngineLike(RecordingSampler):
    """Samples from a copy of what was published, in another thread if it is asked to, as an engine does.

    A batch that is begun ahead is sampled only when the step has trained that it is begun in.
    """

    def __init__(self, trained: threading.Semaphore) -> None:
        self.copy = Policy.on_model(tiny_model(), None, LORA)
        super().__init__(self.copy, number_prompts(4))
        self._trained = trained
        self._threads = ThreadPoolExecutor(1)
        self.begun = 0
        self.fails_at: int | None = None
        """Which of the batches that are begun ahead cannot be sampled."""

    def publish(self, policy: Policy, step: int) -> None:
        self.copy.set_weights(policy.weights())
        super().publish(policy, step)

    def in_background(self, work: Callable[[], T]) -> Background[T]:
        self.begun += 1
        fails = self.begun == self.fails_at

        def later() -> T:
            assert self._trained.acquire(timeout=HANGS_S), "training waits for the rollouts of the next step"
            if fails:
                raise EngineError("the engine is away")
            return work()

        return Background(self._threads.submit(later))


class Told(SilentProgress):
    """Says when a step has trained; as a killed worker would, it ends the job after one of them."""

    def __init__(self, killed_at: int | None) -> None:
        super().__init__()
        self.trained = threading.Semaphore(0)
        self._killed_at = killed_at

    def report(self, phase: str, step: int, metrics: dict[str, float] | None = None) -> None:
        super().report(phase, step, metrics)
        if phase == "training":
            self.trained.release()
            if step == self._killed_at:
                raise JobCancelledError


class Run:
    """A job of RL on the tiny policy, in a folder of its own."""

    def __init__(
        self, folder: Path, reward: Callable[[str, str], float], killed_at: int | None = None, **fields: Any
    ) -> None:
        folder.mkdir(exist_ok=True)
        options: dict[str, Any] = {**FIELDS, "steps": 6, **fields}
        self.spec = RLSpec(**job_fields(folder), **options)
        self.policy = Policy.on_model(tiny_model(), None, LORA)
        self.progress = Told(killed_at)
        self.sampler = EngineLike(self.progress.trained)
        self.asked: list[str] = []

        def score(completion: str, answer: str) -> float:
            self.asked.append(answer)
            return reward(completion, answer)

        problems = [Problem(messages, str(number)) for number, messages in enumerate(number_prompts(40))]
        recorder = RolloutRecorder(self.spec.rollouts_file, steps=self.spec.steps, keep=1000)
        self._grpo = Grpo(
            self.policy,
            self.spec,
            self.sampler,
            problems,
            InProcessScorer(score),
            self.progress,
            Checkpoints(self.spec),
            Recording(recorder),
        )

    def outcome(self) -> RLOutcome:
        return self._grpo.run()

    @property
    def metrics(self) -> list[dict[str, float]]:
        return [metrics for phase, _, metrics in self.progress.reports if phase == "training"]

    @property
    def models(self) -> list[set[str]]:
        """The versions from which the rollouts of each step were sampled."""
        rows = read_rollouts(self.spec.rollouts_file)
        return [{row.model for row in rows if row.step == step} for step in range(max(row.step for row in rows) + 1)]


def even(completion: str, answer: str) -> float:
    tokens = [int(part) for part in completion.split()]
    return sum(token % 2 == 0 for token in tokens) / len(tokens)


def student(*steps: int) -> list[set[str]]:
    return [{f"in-process-{step}"} for step in steps]


def test_rollouts_are_exactly_one_step_old_and_training_does_not_wait_for_them(tmp_path: Path) -> None:
    run = Run(tmp_path, even, staleness=1)
    outcome = run.outcome()
    assert (outcome.steps, outcome.updates, run.sampler.begun) == (6, 6, 5)
    assert run.models == student(0, 0, 1, 2, 3, 4)  # the first rollouts of a job cannot be stale
    assert run.sampler.published[-1] == 6  # the last student is served in the end
    assert all(torch.equal(*pair) for pair in zip(run.policy.weights(), run.sampler.copy.weights(), strict=True))
    first, *stale = run.metrics
    assert first["logprob_gap"] < 1e-4 and all(step["logprob_gap"] > 1e-3 for step in stale)


def test_a_policy_learns_from_stale_rollouts(tmp_path: Path) -> None:
    run = Run(tmp_path, even, staleness=1, steps=10, prompts_per_step=8, group_size=8)
    run.outcome()
    assert run.metrics[-1]["reward"] > run.metrics[0]["reward"] + 0.1


def test_without_staleness_nothing_is_sampled_in_the_background(tmp_path: Path) -> None:
    run = Run(tmp_path, even)
    run.outcome()
    assert run.sampler.begun == 0 and run.models == student(0, 1, 2, 3, 4, 5)
    assert run.sampler.published == [1, 2, 3, 4, 5, 6]
    assert all(step["logprob_gap"] < 1e-4 for step in run.metrics)


def test_a_batch_that_teaches_nothing_does_not_make_the_next_one_older(tmp_path: Path) -> None:
    """The third and fourth batch of four groups leave the student as it is."""
    calls = 0

    def sometimes(completion: str, answer: str) -> float:
        nonlocal calls
        calls += 1
        return even(completion, answer) if (calls - 1) // 16 not in (2, 3) else 0.0

    run = Run(tmp_path, sometimes, staleness=1, max_resamples=0)
    assert run.outcome().updates == 4
    assert run.models == student(0, 0, 1, 2, 2, 2)
    assert run.sampler.published == [1, 2, 6]


def test_nothing_is_sampled_beyond_the_last_step(tmp_path: Path) -> None:
    run = Run(tmp_path, lambda *_: 0.0, staleness=1, patience=3, max_resamples=1)
    outcome = run.outcome()
    assert (outcome.steps, outcome.stopped) == (3, "no_signal")
    assert outcome.place.drawn == 3 * 2 * 4 and len(run.asked) == 3 * 2 * 4 * 4


def test_a_resumed_job_samples_anew_what_was_sampled_ahead(tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole", even, staleness=1)
    place = whole.outcome().place
    killed = Run(tmp_path / "killed", even, killed_at=3, staleness=1)
    with pytest.raises(JobCancelledError):
        killed.outcome()
    assert killed.models == student(0, 0, 1, 2)  # the last of them was sampled ahead
    resumed = Run(tmp_path / "killed", even, staleness=1)
    outcome = resumed.outcome()
    assert (outcome.steps, outcome.updates, outcome.place) == (6, 6, place)
    assert resumed.models == student(0, 0, 1, 3, 3, 4)
    seen = whole.asked[3 * 16 :]  # every step has drawn four problems, because every group varies
    assert resumed.asked == seen and killed.asked == whole.asked[: 4 * 16]


def test_an_error_in_the_background_ends_the_job_after_the_step_that_trains(tmp_path: Path) -> None:
    run = Run(tmp_path, even, staleness=1)
    run.sampler.fails_at = 3
    with pytest.raises(EngineError, match="the engine is away"):
        run.outcome()
    assert len(run.metrics) == 3 and run.sampler.begun == 3
    assert Checkpoints(run.spec).restore(run.policy, torch.optim.Adam(run.policy.parameters())) is not None


@pytest.mark.parametrize("fields", [{"kl_coef": 0.0}, {"kl_coef": 0.3}, {"entropy_bonus": 0.2}])
@pytest.mark.parametrize("cap", [1.1, 2.0])
def test_the_gradient_is_weighted_with_the_ratio_to_the_policy_that_sampled(
    tmp_path: Path, fields: dict[str, Any], cap: float
) -> None:
    """Loss and gradient agree with a direct computation in which a stale policy sampled."""
    policy = Policy.on_model(tiny_model(), None, LORA)
    generator = torch.Generator().manual_seed(1)
    policy.set_weights([weight + 0.05 * torch.randn(weight.shape, generator=generator) for weight in policy.weights()])
    prompts = number_prompts(4)
    sampler = RecordingSampler(policy, prompts)
    sampled = sampler.sample(prompts, n=4, max_tokens=8, temperature=1.0, seed=0)
    advantages = (1.0, -1.0, 2.0, -2.0)
    scored = [ScoredRollout(*pair) for group in sampled for pair in zip(group, (0.0,) * 4, advantages, strict=True)]
    policy.set_weights([weight + 0.05 * torch.randn(weight.shape, generator=generator) for weight in policy.weights()])

    spec = RLSpec(**job_fields(tmp_path), **FIELDS, staleness=1, importance_cap=cap, **fields)
    loss, capped = direct_loss(policy, scored, cap, **fields)
    gradients = torch.autograd.grad(loss, policy.parameters())
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm()

    found = Learner(policy, spec).learn(scored)
    assert 0 < capped < 1 and found["importance_capped"] == pytest.approx(capped)
    assert found["grad_norm"] == pytest.approx(float(norm), rel=1e-4)


def direct_loss(
    policy: Policy, scored: list[ScoredRollout], cap: float, kl_coef: float = 0.0, entropy_bonus: float = 0.0
) -> tuple[torch.Tensor, float]:
    """The loss of a first update on these rollouts, and the share of tokens whose weight is at the cap."""
    total, weights = torch.zeros(()), []
    for item in scored:
        logprobs_TV = all_logprobs(policy, item.rollout)
        targets_T1 = torch.tensor(item.rollout.token_ids)[:, None]
        logprobs_T = logprobs_TV.gather(1, targets_T1)[:, 0]
        weight_T = (logprobs_T.detach() - torch.tensor(item.rollout.logprobs)).exp().clamp(max=cap)
        with policy.as_teacher():
            reference_T = all_logprobs(policy, item.rollout).gather(1, targets_T1)[:, 0]
        ratio_T, log_ratio_T = (logprobs_T - logprobs_T.detach()).exp(), reference_T - logprobs_T
        kl_T = ratio_T * (log_ratio_T.exp() - log_ratio_T - 1)
        entropy_T = -(logprobs_TV.exp() * logprobs_TV).sum(-1)
        loss_T = -weight_T * ratio_T * (item.advantage or 0.0) + kl_coef * weight_T * kl_T - entropy_bonus * entropy_T
        total = total + loss_T.sum()
        weights.append(weight_T)
    weights_T = torch.cat(weights)
    return total / len(weights_T), float((weights_T >= cap).float().mean())


def all_logprobs(policy: Policy, rollout: Rollout) -> torch.Tensor:
    """Log-probabilities of all tokens in every state of the completion, [T, V]."""
    ids = torch.tensor([rollout.prompt_ids + rollout.token_ids])
    logits_TV = policy.model(input_ids=ids).logits[0, len(rollout.prompt_ids) - 1 : -1]
    return torch.log_softmax(logits_TV, -1)


def test_stale_rollouts_are_refused_where_their_weights_are_not_known() -> None:
    with pytest.raises(ValueError, match=r"staleness = 1 needs .* but temperature = 1\.3"):
        RLOptions(staleness=1, temperature=1.3)


def test_staleness_can_be_set_in_the_environment_and_has_bounds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REHEATD_RL__STALENESS", "1")
    assert load_settings().rl.staleness == 1
    for value in ("2", "-1"):
        monkeypatch.setenv("REHEATD_RL__STALENESS", value)
        with pytest.raises(ConfigError, match=rf"rl\.staleness.*{value}"):
            load_settings()


def test_hotter_rollouts_are_never_stale(tmp_path: Path) -> None:
    spec = ReheatSpec(**job_fields(tmp_path), remedy="hot", rl=RLOptions(staleness=1))
    assert rl_of(spec).staleness == 0
    bonus = spec.model_copy(update={"remedy": "entropy_bonus", "target_entropy": 1.0})
    assert rl_of(bonus).staleness == 1
