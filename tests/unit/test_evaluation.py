"""Accuracy: avg@k, pass@k and their intervals, and the outcomes that are kept."""

import random
import statistics
from collections.abc import Sequence
from itertools import combinations

import pytest

from reheatd.errors import EngineError
from reheatd.json_lines import Messages
from reheatd.measures import Accuracy
from reheatd.options import TaskOptions
from reheatd.task_data import Problem
from workers.evaluation import evaluation_batch, measure_accuracy, pass_rate
from workers.rewards import load_reward
from workers.rewards.scoring import InProcessScorer
from workers.sampling.rollout import Rollout

HELD_OUT = [Problem([{"role": "user", "content": f"question {answer}"}], answer) for answer in ("1", "2", "3", "4")]


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_pass_at_k_is_the_mean_over_all_subsets(k: int) -> None:
    solved, samples = [0, 1, 3, 8], 8
    by_hand = [
        statistics.fmean(any(place < count for place in subset) for subset in combinations(range(samples), k))
        for count in solved
    ]
    assert pass_rate(solved, samples, k).value == pytest.approx(statistics.fmean(by_hand))


@pytest.mark.parametrize(("count", "value"), [(0, 0.0), (4, 1.0)])
def test_an_interval_has_a_width_where_all_problems_are_alike(count: int, value: float) -> None:
    rate = pass_rate([count] * 20, 4, 2)
    assert rate.value == value and 0 <= rate.low <= value <= rate.high <= 1
    assert 0.1 < rate.high - rate.low < 0.25


@pytest.mark.parametrize("k", [1, 4])
def test_an_interval_covers_the_truth_nineteen_times_in_twenty(k: int) -> None:
    generator = random.Random(0)
    problems, samples, trials, covered = 40, 4, 600, 0
    truth = statistics.fmean(1 - (1 - (i + 0.5) / 1000) ** k for i in range(1000))  # problems of uniform difficulty
    for _ in range(trials):
        chances = [generator.random() for _ in range(problems)]
        solved = [sum(generator.random() < chance for _ in range(samples)) for chance in chances]
        rate = pass_rate(solved, samples, k)
        covered += rate.low <= truth <= rate.high
    assert 0.92 <= covered / trials <= 0.985


class ScriptedSampler:
    """Answers from a list, in the order of the problems, and keeps how it was asked."""

    model = "policy-v1"

    def __init__(self, texts: list[list[str]]) -> None:
        self.texts = texts
        self.asked: dict[str, object] = {}

    def sample(self, prompts: Sequence[Messages], **asked: object) -> list[list[Rollout]]:
        self.asked = asked
        return [
            [Rollout([1], [2], text, [-0.1], self.model, False) for text in texts]
            for _, texts in zip(prompts, self.texts, strict=True)
        ]


def measure(
    texts: list[list[str]], task: TaskOptions, problems: Sequence[Problem] = HELD_OUT
) -> tuple[Accuracy, dict[str, object]]:
    sampler = ScriptedSampler(texts)
    batch = evaluation_batch(problems, task, 77, seed=5)
    accuracy = measure_accuracy(sampler, problems, InProcessScorer(load_reward("numeric")), batch)  # pyright: ignore[reportArgumentType]
    return accuracy, sampler.asked


def test_accuracy_is_the_mean_share_of_answers_that_solve_a_problem() -> None:
    texts = [["1", "It is 1."], ["2", "5"], ["no idea", "5"], ["4", "4"]]
    accuracy, asked = measure(texts, TaskOptions(eval_samples=2))
    assert accuracy.solved == [2, 1, 0, 2] and accuracy.samples == 2 and accuracy.problems == 4
    assert accuracy.value == 5 / 8 and 0 < accuracy.low < 5 / 8 < accuracy.high < 1
    assert [(rate.k, rate.value) for rate in accuracy.pass_at] == [(1, 5 / 8), (2, 3 / 4)]
    assert asked == {"n": 2, "max_tokens": 77, "temperature": 1.0, "seed": 5, "top_p": 0.7}


def test_accuracy_is_measured_at_the_tasks_own_sampling_settings() -> None:
    task = TaskOptions(eval_samples=1, eval_temperature=0, eval_top_p=1, eval_max_tokens=9)
    _, asked = measure([["1"], ["2"], ["3"], ["4"]], task)
    assert asked == {"n": 1, "max_tokens": 9, "temperature": 0, "seed": 5, "top_p": 1}


def test_outcomes_say_which_problems_they_belong_to() -> None:
    texts, task = [["1"], ["2"]], TaskOptions(eval_samples=1)
    first, again, others = (measure(texts, task, HELD_OUT[some])[0] for some in (slice(2), slice(2), slice(2, 4)))
    assert first.problem_set == again.problem_set != others.problem_set


def test_accuracy_refuses_missing_answers() -> None:
    with pytest.raises(EngineError, match="fewer than 2 answers to 1 of 4 held-out problems"):
        measure([["1", "1"], ["2"], ["3", "3"], ["4", "4"]], TaskOptions(eval_samples=2))
