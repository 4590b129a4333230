"""The learning signal of the present run of RL as the API shows it, judged as `reheatd diagnose` judges a log."""

import statistics

from reheatd.api.schemas import LearningView
from reheatd.config_tables import EntropySection
from reheatd.entropy.learning import LearningSignal
from reheatd.runlog.learning import learning_notes
from reheatd.runlog.metric_names import Signal
from reheatd.runlog.signals import Series, SignalFigures, Signals

MOST_STEPS = 500
"""The newest steps of a run that notes and trends look at."""


def learning_view(learning: LearningSignal, version: int, settings: EntropySection) -> LearningView | None:
    """The view of the run that a version belongs to; None if the run has no step yet."""
    steps = learning.last(max(MOST_STEPS, settings.stall_steps), version)
    if not steps:
        return None
    trends: dict[Signal, Series] = {
        "reward": {step.number: step.reward for step in steps if step.reward is not None},
        "grad_norm": {step.number: step.grad_norm for step in steps if step.grad_norm is not None},
    }
    shares: dict[Signal, Series] = {
        "all_fail": {step.number: step.signal.all_fail for step in steps},
        "all_pass": {step.number: step.signal.all_pass for step in steps},
    }
    newest = steps[-settings.stall_steps :]
    return LearningView(
        steps=steps[-1].number,
        groups=statistics.fmean(step.groups for step in newest),
        varied=statistics.fmean(step.varied for step in newest),
        all_fail=statistics.fmean(step.all_fail for step in newest),
        all_pass=statistics.fmean(step.all_pass for step in newest),
        trends={name: SignalFigures.of(name, name, series) for name, series in trends.items() if series},
        notes=learning_notes(Signals(None, {**trends, **shares}, {}), None),
    )
