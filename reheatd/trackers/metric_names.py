"""The names under which trackers get what a job measured: those of TRL's trainers, as far as TRL measures the same.

A job of the remedy `auto` makes several candidates; their metrics have the remedy before the name.
"""

import re
from dataclasses import dataclass

STEP = "train/global_step"
"""The step of a point, for trackers that need it as a metric; transformers' callbacks have the same name."""
OUTCOME = "job/"
"""What the names of an outcome begin with."""


@dataclass(frozen=True)
class TrackedMetric:
    """A metric of a job's curves under the name that trackers get, and what other trainers call it."""

    ours: str
    """Name in the curves; NAME stands for the name of a reward, and K for a number."""
    tracked: str
    trl: str | None = None
    """TRL's name in a tracker; None if TRL has no such metric."""
    verl: str | None = None

    def name_of(self, metric: str) -> str | None:
        """The name that trackers get for a metric; None if this is another metric's entry."""
        pattern = re.escape(self.ours).replace("NAME", "(?P<value>.+)").replace("K", r"(?P<value>\d+)")
        found = re.fullmatch(pattern, metric)
        if found is None:
            return None
        value = found.groupdict().get("value", "")
        return self.tracked.replace("NAME", value).replace("K", value)


def _as_trl(ours: str, tracked: str, verl: str | None = None) -> TrackedMetric:
    return TrackedMetric(ours, tracked, trl=tracked, verl=verl)


TRACKED_METRICS = (
    _as_trl("loss", "train/loss", "actor/pg_loss"),
    _as_trl("entropy", "train/entropy", "actor/entropy"),
    _as_trl("grad_norm", "train/grad_norm", "actor/grad_norm"),
    _as_trl("reward", "train/reward", "critic/score/mean"),
    _as_trl("reward_NAME", "train/rewards/NAME/mean"),
    _as_trl("zero_variance_groups", "train/frac_reward_zero_std"),
    _as_trl("completion_tokens", "train/completions/mean_length", "response_length/mean"),
    _as_trl("truncated", "train/completions/clipped_ratio", "response_length/clip_ratio"),
    _as_trl("kl", "train/kl", "actor/kl_loss"),
    _as_trl("clip_fraction", "train/clip_ratio/region_mean", "actor/pg_clipfrac"),
    _as_trl("logprob_gap", "train/sampling/sampling_logp_difference/mean"),
    _as_trl("entropy_bonus", "train/entropy_coef"),
    TrackedMetric("importance_capped", "train/sampling/importance_capped"),
    TrackedMetric("entropy_sampled", "train/entropy_sampled"),
    TrackedMetric("groups", "train/groups/sampled"),
    TrackedMetric("groups_varied", "train/groups/varied"),
    TrackedMetric("groups_all_fail", "train/groups/all_fail"),
    TrackedMetric("groups_all_pass", "train/groups/all_pass"),
    TrackedMetric("samples", "train/samples"),
    TrackedMetric("noop_steps", "train/noop_steps"),
    TrackedMetric("verifier_timeouts", "train/verifier/timeouts"),
    TrackedMetric("verifier_crashes", "train/verifier/crashes"),
    TrackedMetric("verifier_failures", "train/verifier/failures"),
    TrackedMetric("teacher_entropy", "train/teacher_entropy"),
    TrackedMetric("tau", "train/tau"),
    TrackedMetric("factor", "train/factor"),
    TrackedMetric("probe_entropy", "eval/probe_entropy"),
    TrackedMetric("accuracy", "eval/accuracy", verl="val-core/SOURCE/REWARD/mean@K"),
    TrackedMetric("pass_at_K", "eval/pass_at_K", verl="val-core/SOURCE/REWARD/best@K/mean"),
)
"""Every metric that a job reports."""

OUTCOMES = {
    "status": "how the job ended: `succeeded`, `rejected`, `failed` or `cancelled`",
    "version": "number of the version that the job made",
    "parent_version": "number of the version that it started from",
    "attempts": "how many workers it took",
    "steps": "optimiser steps, or steps of RL",
    "stopped": "why training ended: `target`, `steps` or `no_signal`",
    "remedy": "how the policy was reheated",
    "seconds": "time from the start of the job to its result",
    "entropy_before": "entropy of the parent on the probes, nats per token",
    "entropy_after": "the same of the new version",
    "accuracy_before": "accuracy of the parent on the held-out problems, avg@k",
    "accuracy_after": "the same of the new version",
    "pass_at_K_before": "pass@K of the parent, for the largest K",
    "pass_at_K_after": "the same of the new version",
    "gate/NAME": "what the gate NAME said: `passed`, `failed` or `no_evidence`",
    "gates": "all gates with their figures, one per line",
    "error": "why the job did not succeed",
}
"""The names of an outcome without what they begin with, and what they mean. What is not known is left out."""


def tracked_name(metric: str) -> str:
    """The name that trackers get for a metric of a job's curves; one that is not in the table is one of training."""
    names = (entry.name_of(metric) for entry in TRACKED_METRICS)
    return next((name for name in names if name is not None), f"train/{metric}")
