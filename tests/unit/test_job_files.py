"""Curves and rollouts in a job's folder: written while it runs, continued after a crash, bounded, read at any time."""

import json
import math
from pathlib import Path

import pytest

from reheatd.errors import ReheatdError
from reheatd.jobs.contracts import RLSpec
from reheatd.jobs.curves import CurvePoint, CurveWriter, metric_names, read_curves
from reheatd.jobs.rollouts import (
    MAX_CHARACTERS,
    MAX_PER_STEP,
    MAX_TOKENS,
    RolloutRecorder,
    RolloutRow,
    read_rollouts,
)
from reheatd.options import LoraOptions, TaskOptions
from reheatd.task_data import Problem
from tests.unit.report_support import rollout_row
from tests.unit.workers_support import NumberCodec, SilentProgress, job_fields, number_prompts, tiny_model
from workers.policy import Policy
from workers.problem_order import ProblemOrder
from workers.rewards.scoring import InProcessScorer
from workers.rewards.weighted import WeightedRewards
from workers.sampling.groups import GroupCollector
from workers.sampling.in_process import InProcessSampler
from workers.sampling.recording import RecordedSampling, Recording
from workers.sampling.rollout import Rollout

LORA = LoraOptions(rank=4, alpha=8)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def row(step: int, completion: str) -> RolloutRow:
    return rollout_row(step).model_copy(update={"completion": completion})


def test_a_curve_has_every_step_with_all_its_metrics(file: Path) -> None:
    curves = CurveWriter(file)
    curves.add(0, {"accuracy": 0.5})
    curves.add(1, {"loss": 0.2, "entropy": 0.9})
    assert read_curves(file) == [
        CurvePoint(step=0, metrics={"accuracy": 0.5}),
        CurvePoint(step=1, metrics={"loss": 0.2, "entropy": 0.9}),
    ]
    curves.add(1, {"probe_entropy": 0.8})
    curves.add(2, {"loss": math.inf, "entropy": math.nan, "grad_norm": 1.0})
    points = read_curves(file)
    assert [point.metrics for point in points[1:]] == [
        {"loss": 0.2, "entropy": 0.9, "probe_entropy": 0.8},
        {"grad_norm": 1.0},
    ]
    assert metric_names(points) == ["accuracy", "loss", "entropy", "probe_entropy", "grad_norm"]


def test_a_resumed_job_continues_its_curve_after_the_checkpoint(file: Path) -> None:
    dead = CurveWriter(file)
    for step in range(1, 6):
        dead.add(step, {"loss": step, "only_dead": 1.0})
    with file.open("a") as stream:
        stream.write('{"step": 6, "metr')  # it died while it wrote
    assert [point.step for point in read_curves(file)] == [1, 2, 3, 4, 5]
    resumed = CurveWriter(file)
    resumed.add(4, {"loss": 40.0})
    assert [(point.step, point.metrics["loss"]) for point in read_curves(file)] == [(1, 1), (2, 2), (3, 3), (4, 40)]
    resumed.add(5, {"loss": 50.0})
    points = read_curves(file)
    assert [point.metrics["loss"] for point in points] == [1, 2, 3, 40, 50]
    assert "only_dead" not in points[-1].metrics


def test_a_job_resumed_after_its_last_step_keeps_the_metrics_of_that_step(file: Path) -> None:
    CurveWriter(file).add(3, {"loss": 0.1})
    CurveWriter(file).add(3, {"accuracy": 0.5})
    assert read_curves(file) == [CurvePoint(step=3, metrics={"loss": 0.1, "accuracy": 0.5})]


def test_a_job_that_has_written_nothing_has_neither_curve_nor_rollouts(file: Path) -> None:
    assert read_curves(file) == [] and read_rollouts(file) == []


def test_a_damaged_line_is_named(file: Path) -> None:
    file.write_text('{"step": 1, "metrics": {}}\n{"step": "two"}\n{"step": 3, "metrics": {}}\n')
    with pytest.raises(ReheatdError, match=r"rows\.jsonl, line 2 is damaged"):
        read_curves(file)


def test_a_disk_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReheatdError, match="No such file"):
        CurveWriter(tmp_path / "away" / "curves.jsonl").add(1, {"loss": 1.0})


@pytest.mark.parametrize(
    ("steps", "keep", "kept"),
    [
        (3, 100, {0: MAX_PER_STEP, 1: MAX_PER_STEP, 2: MAX_PER_STEP}),
        (4, 10, {0: 2, 1: 2, 2: 2, 3: 2}),
        (6, 3, {0: 1, 2: 1, 4: 1}),
        (7, 3, {0: 1, 3: 1, 6: 1}),
        (3, 1, {0: 1}),
        (3, 0, {}),
    ],
)
def test_rollouts_are_bounded_per_step_and_in_all(file: Path, steps: int, keep: int, kept: dict[int, int]) -> None:
    recorder = RolloutRecorder(file, steps=steps, keep=keep)
    for step in range(steps):
        for part in range(3):  # a step may sample several times
            recorder.record([row(step, f"{step}.{part}.{number}") for number in range(10)])
    rows = read_rollouts(file)
    assert {step: sum(r.step == step for r in rows) for step in {r.step for r in rows}} == kept
    assert len(rows) <= keep
    firsts = [f"{step}.{number // 10}.{number % 10}" for step, count in kept.items() for number in range(count)]
    assert [r.completion for r in rows] == firsts


def test_a_resumed_job_samples_its_step_again(file: Path) -> None:
    dead = RolloutRecorder(file, steps=5, keep=100)
    for step in range(4):
        dead.record([row(step, "dead")])
    resumed = RolloutRecorder(file, steps=5, keep=100)
    resumed.record([row(2, "resumed")])
    resumed.record([row(3, "resumed")])
    told = [(r.step, r.completion) for r in read_rollouts(file)]
    assert told == [(0, "dead"), (1, "dead"), (2, "resumed"), (3, "resumed")]
    assert [r.completion for r in read_rollouts(file, step=1)] == ["dead"]


def test_a_long_text_loses_its_middle(file: Path) -> None:
    text = "a" * MAX_CHARACTERS + "the answer is 4"
    long = row(0, text).model_copy(update={"messages": [{"role": "user", "content": text}]})
    RolloutRecorder(file, steps=1, keep=1).record([long])
    (kept,) = read_rollouts(file)
    for shortened in (kept.completion, kept.messages[0]["content"]):
        assert shortened.startswith("aaa") and shortened.endswith("the answer is 4")
        assert "15 characters left out" in shortened and len(shortened) < MAX_CHARACTERS + 50


def test_rollouts_of_a_reheat_are_recorded_with_the_step_that_was_published(file: Path) -> None:
    policy = Policy.on_model(tiny_model(), None, LORA)
    inner = InProcessSampler(policy, NumberCodec(), number_prompts(2))
    sampler = RecordedSampling(inner, Recording(RolloutRecorder(file, steps=9, keep=100)))
    prompts = number_prompts(3)
    first = sampler.sample(prompts, n=1, max_tokens=4, temperature=1.0, seed=0)
    sampler.publish(policy, 5)
    sampler.sample(prompts[:1], n=2, max_tokens=4, temperature=1.0, seed=1)
    assert sampler.measure_entropy(0).sequences == 2 and sampler.model == "in-process-5"
    rows = read_rollouts(file)
    assert [(r.step, r.model) for r in rows] == [(0, "in-process-0")] * 3 + [(5, "in-process-5")] * 2
    assert [r.messages for r in rows[:3]] == prompts
    sampled = first[0][0]
    assert (rows[0].completion, rows[0].tokens, rows[0].truncated) == (sampled.text, 4, True)
    assert rows[0].mean_logprob == pytest.approx(sum(sampled.logprobs) / 4)
    assert rows[0].reward is None and rows[0].advantage is None


def test_rollouts_of_rl_are_recorded_with_reward_and_advantage(file: Path, tmp_path: Path) -> None:
    policy = Policy.on_model(tiny_model(), None, LORA)
    sampler = InProcessSampler(policy, NumberCodec(), [])
    problems = [Problem(messages, "x") for messages in number_prompts(2)]
    spec = RLSpec(**job_fields(tmp_path), prompts_per_step=1, group_size=4, max_tokens=4, max_resamples=1, steps=3)
    rewards = iter([1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    scorer = InProcessScorer(lambda completion, answer: next(rewards))
    recorder = RolloutRecorder(file, steps=3, keep=100)
    groups = GroupCollector(spec, sampler, problems, scorer, SilentProgress(), Recording(recorder))
    batch = groups.collect(2)
    rows = read_rollouts(file)
    assert [r.step for r in rows] == [2] * 8
    assert [r.reward for r in rows] == [1, 1, 1, 1, 1, 0, 0, 0]
    # The first group teaches nothing; the second one took its place.
    assert [r.advantage for r in rows] == [None] * 4 + [0.75, -0.25, -0.25, -0.25]
    assert [r.completion for r in rows[4:]] == [item.rollout.text for item in batch.scored]
    assert [r.messages for r in (rows[0], rows[4])] == [p.messages for p in ProblemOrder(problems, spec.seed).take(2)]


def test_tokens_are_kept_with_their_figures(file: Path) -> None:
    policy = Policy.on_model(tiny_model(), None, LORA)
    recording = Recording(RolloutRecorder(file, steps=9, keep=100), lambda ids: [f"<{number}>" for number in ids])
    sampler = RecordedSampling(InProcessSampler(policy, NumberCodec(), []), recording)
    ((sampled,),) = sampler.sample(number_prompts(1), n=1, max_tokens=4, temperature=1.0, seed=0)
    (row,) = read_rollouts(file)
    assert row.by_token is not None and sampled.entropies is not None
    assert row.by_token.texts == [f"<{number}>" for number in sampled.token_ids]
    assert row.by_token.logprobs == pytest.approx(sampled.logprobs, abs=6e-4)
    assert row.by_token.entropies == pytest.approx(sampled.entropies, abs=6e-4)
    assert max(len(str(value)) for value in row.by_token.logprobs) <= 7, "three digits, to save space"
    assert row.by_token.left_out == 0 and row.rewards == []


def test_of_a_long_completion_the_ends_are_kept(file: Path) -> None:
    asked: list[list[int]] = []

    def texts(ids: list[int]) -> list[str]:
        asked.append(ids)
        return ["x"] * len(ids)

    count = MAX_TOKENS + 5
    rollout = Rollout([1], [*range(count)], "text", [-0.00001 * place for place in range(count)], "m", True)
    Recording(RolloutRecorder(file, steps=1, keep=1), texts).keep(0, [], [rollout, rollout])
    (row,) = read_rollouts(file)
    assert row.by_token is not None and row.by_token.left_out == 5
    half = MAX_TOKENS // 2
    assert asked == [[*range(half)], [*range(count - half, count)]], "texts are made of what is kept, and only once"
    assert len(row.by_token.logprobs) == len(row.by_token.texts) == MAX_TOKENS and row.by_token.entropies is None
    assert row.by_token.logprobs[0] == 0 and row.by_token.logprobs[-1] == -0.01 and "-0.0," not in file.read_text()


def test_a_file_of_an_earlier_version_can_be_read(file: Path) -> None:
    old = rollout_row(0, 1.0).model_dump(exclude={"rewards", "by_token"})
    file.write_text(json.dumps(old) + "\n")
    assert read_rollouts(file) == [rollout_row(0, 1.0)]


def test_each_of_several_rewards_has_its_own_mean(tmp_path: Path) -> None:
    policy = Policy.on_model(tiny_model(), None, LORA)
    sampler = InProcessSampler(policy, NumberCodec(), [])
    problems = [Problem(messages, r"\A\d*[02468]\b") for messages in number_prompts(6)]
    spec = RLSpec(**job_fields(tmp_path), prompts_per_step=4, group_size=4, max_tokens=4, max_resamples=0, steps=3)
    task = TaskOptions(rewards={"regex": 1.0, "exact": 0.5})
    recorder = RolloutRecorder(tmp_path / "rollouts", steps=3, keep=100)
    with WeightedRewards(task) as rewards:
        metrics = (
            GroupCollector(spec, sampler, problems, rewards, SilentProgress(), Recording(recorder)).collect(0).metrics
        )
    rows = read_rollouts(tmp_path / "rollouts")
    begins_even = [int(row.completion.split()[0]) % 2 == 0 for row in rows]
    assert 0 < sum(begins_even) < len(rows) == 16
    assert metrics["reward"] == metrics["reward_regex"] == sum(begins_even) / 16 and metrics["reward_exact"] == 0
    assert [row.reward for row in rows] == begins_even
    assert [[(part.name, part.weight, part.value) for part in row.rewards] for row in rows] == [
        [("regex", 1.0, float(is_even)), ("exact", 0.5, 0.0)] for is_even in begins_even
    ]
