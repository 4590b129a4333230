"""The names under which trainers log what a diagnosis needs: one table for all of them."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

Signal = Literal[
    "entropy", "reward", "grad_norm", "zero_variance", "all_fail", "all_pass", "pass_at_k", "completion_length"
]

SIGNALS: dict[Signal, str] = {
    "entropy": "mean token entropy of the rollouts, nats per token",
    "reward": "mean reward of the rollouts",
    "grad_norm": "norm of the gradient, before it is clipped",
    "zero_variance": "share of the groups of rollouts whose rewards are all equal",
    "all_fail": "share of the groups in which no rollout is rewarded",
    "all_pass": "share of the groups in which every rollout is rewarded fully",
    "pass_at_k": "share of the held-out problems of which one of k answers is right, for the largest k that is logged",
    "completion_length": "mean length of a completion, tokens",
}

STEP_NAMES = ("step", "global_step", "train/global_step", "training/global_step", "trainer/global_step", "_step")
"""Names of a row's step, the best first: W&B counts calls in `_step`, which need not be steps."""


@dataclass(frozen=True)
class MetricName:
    """A name under which a trainer logs a signal."""

    trainer: str
    signal: Signal
    pattern: str
    """Regular expression for the whole name; a group `k` in it is the k of pass@k."""
    complement: bool = False
    """Whether the signal is 1 minus what is logged."""

    def matches(self, name: str) -> bool:
        return re.fullmatch(self.pattern, name) is not None

    def k(self, name: str) -> int:
        """The k of a pass@k; 0 for other signals."""
        found = re.fullmatch(self.pattern, name)
        return int(found.groupdict().get("k", 0)) if found else 0


# prime-rl logs its rollouts by agent; SkyRL's name ends with the number of rollouts in a group. verl and prime-rl log
# pass@k by data source.
METRIC_NAMES = (
    # Without prefix in trainer_state.json, with `train/` in TensorBoard and W&B.
    MetricName("TRL", "entropy", "(train/)?entropy"),
    MetricName("TRL", "reward", "(train/)?reward"),
    MetricName("TRL", "grad_norm", "(train/)?grad_norm"),
    MetricName("TRL", "zero_variance", "(train/)?frac_reward_zero_std"),
    MetricName("TRL", "completion_length", "(train/)?completions/mean_length"),
    MetricName("TRL", "completion_length", "(train/)?completion_length"),
    MetricName("verl", "entropy", "actor/entropy"),
    MetricName("verl", "entropy", "actor/entropy_loss"),
    MetricName("verl", "reward", "critic/score/mean"),
    MetricName("verl", "reward", "critic/rewards/mean"),
    MetricName("verl", "grad_norm", "actor/grad_norm"),
    MetricName("verl", "completion_length", "response_length/mean"),
    MetricName("verl", "pass_at_k", r"val-core/.+/best@(?P<k>\d+)/mean"),
    MetricName("prime-rl", "entropy", "entropy/all/mean"),
    MetricName("prime-rl", "entropy", "entropy/mean"),
    MetricName("prime-rl", "reward", "train/agg/all/[^/]+/reward/mean"),
    MetricName("prime-rl", "reward", "reward/(all/)?mean"),
    MetricName("prime-rl", "grad_norm", "optim/grad_norm"),
    MetricName("prime-rl", "all_fail", "train/agg/all/[^/]+/solved_none"),
    MetricName("prime-rl", "all_fail", "(batch/solve_none|solve_none/all)"),
    MetricName("prime-rl", "all_pass", "train/agg/all/[^/]+/solved_all"),
    MetricName("prime-rl", "all_pass", "(batch/solve_all|solve_all/all)"),
    MetricName("prime-rl", "completion_length", "train/agg/all/num_output_tokens/mean"),
    MetricName("prime-rl", "completion_length", "decode_len/(all/)?mean"),
    MetricName("prime-rl", "pass_at_k", r"eval/.+/pass@(?P<k>\d+)"),
    MetricName("SkyRL", "entropy", "policy/policy_entropy"),
    MetricName("SkyRL", "reward", "reward/avg_raw_reward"),
    MetricName("SkyRL", "grad_norm", "policy/(raw_)?grad_norm"),
    MetricName("SkyRL", "all_fail", r"reward/avg_pass_at_\d+", complement=True),
    MetricName("SkyRL", "pass_at_k", r"eval/all/pass_at_(?P<k>\d+)"),
    MetricName("SkyRL", "completion_length", "generate/avg_num_tokens"),
    MetricName("OpenRLHF", "entropy", "train/entropy_loss"),
    MetricName("OpenRLHF", "reward", "train/rollout/reward_mean"),
    MetricName("OpenRLHF", "reward", "train/reward"),
    MetricName("OpenRLHF", "grad_norm", "train/actor_grad_norm"),
    MetricName("OpenRLHF", "completion_length", "train/rollout/response_length_mean"),
    MetricName("OpenRLHF", "completion_length", "train/response_length"),
)


def bare(name: str) -> str:
    """A metric's name without the name of the run, which a CSV that W&B exports puts before it: `my run - reward`."""
    return name.rpartition(" - ")[2]


def known(signal: Signal, names: Collection[str], trainer: str | None = None) -> tuple[MetricName, list[str]] | None:
    """The first entry of the table for `signal` that some of `names` match, with the names that match it.

    Of several pass@k, only those of the largest k are returned.

    Args:
        names: The names in a log.
        trainer: Its entries come before those of other trainers.
    """
    entries = sorted((each for each in METRIC_NAMES if each.signal == signal), key=lambda each: each.trainer != trainer)
    for entry in entries:
        matching = [name for name in names if entry.matches(bare(name))]
        if matching:
            largest = max(entry.k(bare(name)) for name in matching)
            return entry, [name for name in matching if entry.k(bare(name)) == largest]
    return None
