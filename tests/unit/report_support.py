"""A report with figures that are easy to recognise, and rollouts."""

from reheatd.jobs.report import (
    Comparison,
    GreedyDistance,
    Histogram,
    JobReport,
    LayerSimilarity,
    MeanOverRollouts,
    PolicyFigures,
    PositionFigures,
    TokenFigures,
    TopK,
)
from reheatd.jobs.rollouts import RolloutRow
from reheatd.measures import Accuracy, PassRate
from tests.unit.control_figures import accuracy, entropy


def job_report() -> JobReport:
    return JobReport(
        job_id="reheat-1",
        kind="reheat",
        parent_version=0,
        steps=12,
        stopped="target",
        why_stopped=None,
        seconds=33.0,
        remedy="ts_opsd",
        tau=1.5,
        factor=None,
        target_entropy=1.7,
        entropy_before=entropy(0.8),
        entropy_after=entropy(1.6),
        accuracy_before=passing(20, 0.71),
        accuracy_after=passing(21, 0.82),
        signal_before=None,
        signal_after=None,
        comparison=Comparison(
            parent=policy_figures(0.8, fork=57.0),
            student=policy_figures(1.6, fork=50.0),
            states=1000,
            token_kl=token_figures(0.123),
            kl_student_parent=0.2,
            entropy_change=token_figures(0.05),
            top_k=[
                TopK(
                    k=10,
                    overlap=0.93,
                    parent_mass=0.99,
                    student_mass=0.91,
                    parent_shared_mass=0.98,
                    student_shared_mass=0.9,
                )
            ],
            layers=[LayerSimilarity(layer=1, cka=0.9999), LayerSimilarity(layer=2, cka=0.9876)],
            layer_tokens=1000,
        ),
    )


def passing(solved: int, pass_at_4: float) -> Accuracy:
    best = PassRate(k=4, value=pass_at_4, low=pass_at_4 - 0.1, high=pass_at_4 + 0.1)
    measured = accuracy(solved)
    return measured.model_copy(update={"pass_at": [*measured.pass_at, best]})


def policy_figures(mean: float, *, fork: float) -> PolicyFigures:
    return PolicyFigures(
        entropy=entropy(mean),
        surprisal=entropy(mean),
        positions=[PositionFigures(first=0, last=0, entropy=entropy(mean), surprisal=entropy(mean))],
        greedy=GreedyDistance(
            fork_position=MeanOverRollouts(mean=fork, low=fork - 5, high=fork + 5, rollouts=24),
            never_forked=0.25,
            edit_distance=MeanOverRollouts(mean=0.6, low=0.5, high=0.7, rollouts=24),
        ),
    )


def token_figures(mean: float) -> TokenFigures:
    histogram = Histogram(edges=[0.0, 0.1, 1.0], counts=[900, 100])
    return TokenFigures(mean=mean, p5=0.0, median=mean / 2, p95=4 * mean, histogram=histogram)


def rollout_row(step: int, reward: float | None = None) -> RolloutRow:
    return RolloutRow(
        step=step,
        model=f"job-j1.1-{step}",
        messages=[{"role": "user", "content": "2 + [2]"}],
        completion="It is [bold]4",
        tokens=7,
        mean_logprob=-0.25,
        truncated=step > 0,
        reward=reward,
        advantage=None if reward is None else reward - 0.5,
    )
