"""A worker's job from the parent to its result, with an in-process sampler."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from reheatd.jobs.contracts import JobResult, ReheatSpec
from reheatd.jobs.curves import read_curves
from reheatd.jobs.report import read_report
from reheatd.options import LoraOptions, ProbeOptions, TaskOptions
from reheatd.reference.answers import AnswerKey, ReferenceAnswers
from reheatd.task_data import Problem
from tests.unit.recording_channel import RecordingChannel
from tests.unit.workers_support import RecordingSampler, SilentProgress, job_fields, number_prompts, tiny_model
from workers import training_job
from workers.before_after import Evaluation
from workers.policy import Policy
from workers.progress import ChannelProgress
from workers.rewards.scoring import InProcessScorer
from workers.sampling.rollout import Batch, Rollout
from workers.training_job import TrainingJob
from workers.ts_opsd import Reheater

PROMPTS = number_prompts(24)
PROBLEMS = [Problem(messages, str(number)) for number, messages in enumerate(PROMPTS)]


class LocalSampler(RecordingSampler):
    """Samples from the trainer's policy, with what a served sampler has beside that."""

    probed: Sequence[Rollout] = ()

    def sample_all(self, batches: Sequence[Batch]) -> list[list[list[Rollout]]]:
        return [self.sample(**vars(batch)) for batch in batches]


def make_spec(folder: Path, **fields: Any) -> ReheatSpec:
    common: dict[str, Any] = {
        "max_tokens": 8,
        "target_entropy": 1.8,
        "learning_rate": 0.003,
        "signal_problems": 24,
        "signal_samples": 4,
        "report_rollouts": 4,
        "rl": {"max_tokens": 8, "steps": 1},
        "task": TaskOptions(eval_samples=2, eval_max_tokens=8),
        "probes": ProbeOptions(max_tokens=8),
    }
    return ReheatSpec(**job_fields(folder), **common | fields)


def make_job(spec: ReheatSpec, adapter: Path, reward: Callable[[str, str], float]) -> TrainingJob:
    policy = Policy.on_model(tiny_model(), None, LoraOptions(rank=4, alpha=8), adapter)
    sampler: Any = LocalSampler(policy, PROMPTS[:8])
    progress = ChannelProgress(RecordingChannel(), spec.steps)
    scorer: Any = InProcessScorer(reward)
    evaluation = Evaluation(spec, 8, sampler, PROBLEMS[:4], scorer, PROMPTS[:4], progress)
    return TrainingJob(policy, sampler, PROBLEMS[4:], scorer, progress, evaluation, time.monotonic())


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parent of 1 nat per token, whose base has 2.6."""
    folder = tmp_path_factory.mktemp("parent")
    policy = Policy.on_model(tiny_model(), None, LoraOptions(rank=4, alpha=8))
    cold = make_spec(folder, tau=0.5, target_entropy=1.0, learning_rate=0.01)
    Reheater(policy, cold, RecordingSampler(policy, PROMPTS), PROMPTS, SilentProgress()).run()
    policy.save(folder / "adapter", folder)
    return folder / "adapter"


def failing_until(enough: int) -> Callable[[str, str], float]:
    """A reward that is 0 for the first `enough` completions, and then for about half of them."""
    calls = 0

    def reward(completion: str, answer: str) -> float:
        nonlocal calls
        calls += 1
        return float(calls > enough and int(completion.split()[0]) % 2)

    return reward


@pytest.mark.parametrize(("asked", "tokens", "solved"), [(4, 8, [2, 1, 0, 0]), (3, 8, None), (4, 9, None)])
def test_the_answers_of_a_reference_take_the_place_of_the_base_s(
    tmp_path: Path, adapter: Path, asked: int, tokens: int, solved: list[int] | None
) -> None:
    """If the reference was asked other problems, or its answers are as long as others, its accuracy is not known."""
    spec = make_spec(tmp_path, remedy="shrink", reference_answers=tmp_path / "answers.json")
    texts = [["right", "right"], ["right", "wrong"], ["wrong", "wrong"], ["wrong", "wrong"]][:asked]
    key = AnswerKey.of("digest", PROBLEMS[:asked], spec.task.model_copy(update={"eval_max_tokens": tokens}))
    ReferenceAnswers(key=key, texts=texts).write(tmp_path / "answers.json")
    result = make_job(spec, adapter, lambda completion, _: float(completion == "right")).run(spec)
    assert (result.accuracy_base and result.accuracy_base.solved) == solved
    assert result.accuracy_before.solved == [0, 0, 0, 0]


def tried_to(result: JobResult) -> dict[str | None, JobResult]:
    return {made.remedy: made for made in (result, *result.alternatives)}


def curves_of(spec: ReheatSpec, remedy: str) -> Path:
    return spec.output_dir / "candidates" / remedy / spec.curves_file.name


def test_auto_makes_candidates_and_hands_over_the_one_with_most_signal(
    tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(tmp_path, remedy="auto")
    # Everything fails until the lost problems are known, and the parent has tried them again.
    known = 4 * 2 + 20 * 4 + 20 * 4
    job, shown = make_job(spec, adapter, failing_until(known)), dict[str, list[int]]()
    compare = training_job.compare

    def note_what_is_shown(*arguments: Any) -> Any:
        remedy = spec.curves_file.resolve().parent.name
        shown[remedy] = [point.step for point in read_curves(spec.curves_file)]
        return compare(*arguments)

    monkeypatch.setattr(training_job, "compare", note_what_is_shown)
    result = job.best_of_all(spec)
    made = tried_to(result)
    assert set(made) == {"shrink", "ts_opsd"}
    assert result.signal_before is not None and (result.signal_before.lost, result.signal_before.found) == (20, 0)
    varied = [each.signal_after.varied for each in made.values() if each.signal_after]
    assert varied == sorted(varied, reverse=True) and varied[0] > 10
    for remedy, each in made.items():
        assert each.adapter_dir == tmp_path / "candidates" / str(remedy) / "result"
        report = read_report(each.report_dir or tmp_path)
        assert report is not None and (report.remedy, report.signal_after) == (remedy, each.signal_after)
        assert each.accuracy_before == result.accuracy_before  # the parent is measured once
    shrunk, distilled = (load_file(made[name].adapter_dir / "adapter_model.safetensors") for name in made)
    assert any(not torch.equal(shrunk[name], distilled[name]) for name in shrunk)
    parent = load_file(adapter / "adapter_model.safetensors")
    factor = made["shrink"].factor or 0.0
    torch.testing.assert_close(
        load_file(made["shrink"].adapter_dir / "adapter_model.safetensors"),
        {name: weight * (factor if "lora_B" in name else 1.0) for name, weight in parent.items()},
    )
    for remedy in made:  # each was shown while it was made
        assert shown[str(remedy)] == [point.step for point in read_curves(curves_of(spec, str(remedy)))]
    assert read_curves(spec.curves_file) == read_curves(curves_of(spec, str(result.remedy)))


def test_a_worker_that_takes_over_does_not_make_finished_candidates_again(
    tmp_path: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(tmp_path, remedy="auto")
    make_trainer = training_job.make_trainer
    begun: list[str] = []

    def dies_at(remedy: str) -> None:
        def trainer(policy: Any, one: ReheatSpec, *arguments: Any) -> Any:
            begun.append(one.remedy)
            if one.remedy == remedy:
                raise KeyboardInterrupt
            return make_trainer(policy, one, *arguments)

        monkeypatch.setattr(training_job, "make_trainer", trainer)

    dies_at("ts_opsd")
    with pytest.raises(KeyboardInterrupt):
        make_job(spec, adapter, failing_until(10**9)).best_of_all(spec)
    shrunk = (tmp_path / "candidates" / "shrink" / "result.json").read_text()
    dies_at("nothing")
    made = tried_to(make_job(spec, adapter, failing_until(0)).best_of_all(spec))
    assert begun[:3] == ["shrink", "ts_opsd", "ts_opsd"]
    kept = JobResult.model_validate_json(shrunk)
    assert made["shrink"].model_copy(update={"alternatives": [], "seconds": 0.0}) == kept.model_copy(
        update={"seconds": 0.0}
    )
