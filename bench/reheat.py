"""Reheats a deeply collapsed policy with ten seeds, and one that has not collapsed: `python -m bench.reheat`.

The policy is that of the Countdown experiment: it is pretrained from scratch and then collapsed by RL on few problems
and, from there, by cooling. These problems are its task: its entropy, its reheats and its accuracy are all on them.
Both kinds of reheat run as the daemon would specify them, at its defaults: teacher, tau, learning rate, thresholds and
target. A seed decides the rollouts and the probes' answers. Every outcome is measured again, as the gates do it: on the
same probes with other random numbers.
"""

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.figures import Report
from examples.countdown.arms import job_fields
from examples.countdown.policy import LORA, load_policy, pretrain
from examples.countdown.runs import in_parallel
from examples.countdown.task import COMPLETION_TOKENS, WORDS, WordCodec, problems, reward
from reheatd.config import Settings
from reheatd.control.dependencies import ServedPolicy
from reheatd.control.specs import build_spec, check_collapsed
from reheatd.entropy.regime import Thresholds, thresholds
from reheatd.errors import BadInputError
from reheatd.jobs.contracts import ReheatRequest, ReheatSpec, RLSpec
from reheatd.json_lines import Messages
from reheatd.measures import EntropyEstimate
from reheatd.options import ProbeOptions, TaskOptions
from reheatd.task_data import Problem
from workers.evaluation import evaluation_batch, measure_accuracy
from workers.grpo import Grpo
from workers.policy import Policy
from workers.rewards.scoring import InProcessScorer
from workers.sampling.in_process import InProcessSampler
from workers.ts_opsd import Reheater

SETTINGS = Settings.model_validate(
    {"policy": {"max_model_len": 64}, "reheat": {"max_tokens": COMPLETION_TOKENS}, "lora": LORA}
)
"""The defaults, but for the lengths, which are the task's."""
PRETRAINING_STEPS = 250
RL_PROBLEMS = 16
RL_STEPS = 250
RL_LEARNING_RATE = 1e-3
"""High, because the policy is to collapse."""
COLLAPSED_SHARE = 0.06
"""Share of the baseline to which cooling takes the policy after RL."""
PROBES = 32 * 48 // COMPLETION_TOKENS
"""Probes of a job: as many tokens as 32 answers of the least length have that the daemon samples."""
ACCURACY = TaskOptions(eval_samples=16)
"""How accuracy is measured: as by default, but with more answers."""
SEEDS = range(10)
JUDGE_SEED = 10**6


@dataclass(frozen=True)
class Start:
    """A policy before its reheat."""

    folder: Path
    """Folder of the pretrained policy."""
    adapter: Path | None
    entropy: EntropyEstimate
    baseline: EntropyEstimate

    @property
    def limits(self) -> Thresholds:
        return thresholds(SETTINGS.entropy, baseline=self.baseline.mean)

    def load(self) -> Policy:
        return load_policy(self.folder, self.adapter)

    def spec(self, request: ReheatRequest) -> ReheatSpec:
        """The specification that the daemon would make of the request."""
        spec = build_spec(
            request,
            SETTINGS,
            ServedPolicy("countdown", self.folder, digest="", vocabulary=len(WORDS)),
            job_id="reheat",
            gateway_url="",
            parent_version=0,
            parent_adapter=self.adapter,
            probes=ProbeOptions(),
            baseline=self.baseline.mean,
            default_target=self.limits.target,
            parent_entropy=self.entropy,
        )
        assert isinstance(spec, ReheatSpec)
        return spec


@dataclass(frozen=True)
class Reheated:
    """What became of a policy. Entropies are in nats per token; those named `_ratio` are shares of the target."""

    target: float
    steps: int
    stopped: str
    ratio: float
    """Entropy of the outcome, measured again."""
    highest_ratio: float
    """Highest entropy that was measured on the way, on probes or on rollouts, of students that nobody was served."""
    accuracy: float
    """Mean share of right answers."""
    seconds: float


class Highest:
    """A `Progress` that keeps the highest entropy that was reported."""

    entropy = 0.0

    def report(self, phase: str, step: int, metrics: dict[str, float] | None = None) -> None:
        known = metrics or {}
        self.entropy = max(self.entropy, known.get("probe_entropy", 0.0), known.get("entropy", 0.0))


def main() -> None:
    started = time.monotonic()
    report = Report("reheat")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "pretrained"
        pretrain(folder, PRETRAINING_STEPS)
        baseline = _entropy(load_policy(folder))
        healthy = Start(folder, None, baseline, baseline)
        report.result("baseline_nats", baseline.mean)
        collapsed = collapse(healthy, Path(scratch) / "collapsed", report)
        report.result("target_nats", collapsed.limits.target)
        report.result("accuracy_before", _accuracy(collapsed.load()))
        outcomes: list[Reheated] = []
        for (_, request), reheated in in_parallel(
            run, [(collapsed, ReheatRequest(seed=1000 * seed)) for seed in SEEDS]
        ):
            outcomes.append(reheated)
            print(f"seed {request.seed}: {reheated}", flush=True)
        tolerance = SETTINGS.gate.entropy_tolerance
        report.result("inside_target", sum(abs(one.ratio - 1) <= tolerance for one in outcomes), f"of {len(SEEDS)}")
        report.result("overshoot_max", max(one.ratio for one in outcomes), "of the target")
        report.result("highest_on_the_way", max(one.highest_ratio for one in outcomes), "of the target")
        report.result("steps_median", statistics.median(one.steps for one in outcomes))
        report.result("accuracy_after_min", min(one.accuracy for one in outcomes))
        report.result("reheat_seconds_median", statistics.median(one.seconds for one in outcomes))
        report.result("healthy_refused", is_refused(healthy))
        report.result("healthy_accuracy_before", _accuracy(healthy.load()))
        forced = run((healthy, ReheatRequest(force=True)))
        print(f"forced: {forced}")
        report.result("forced_ratio", forced.ratio, "of its target")
        report.result("forced_accuracy_after", forced.accuracy)
    report.result("seconds", time.monotonic() - started)
    report.write(settings=SETTINGS.reheat.model_dump(), seeds=len(SEEDS))


def collapse(healthy: Start, adapter: Path, report: Report) -> Start:
    """Collapses a policy by RL on few problems, and then by TS-OPSD with a cold teacher."""
    policy = healthy.load()
    sampler = _sampler(policy)
    rl = RLSpec(
        **job_fields(0),
        steps=RL_STEPS,
        prompts_per_step=8,
        group_size=16,
        max_tokens=COMPLETION_TOKENS,
        learning_rate=RL_LEARNING_RATE,
        normalise_std=True,
        max_resamples=0,
    )
    Grpo(policy, rl, sampler, _task(), InProcessScorer(reward), Highest()).run()
    share = _entropy(policy).mean / healthy.baseline.mean
    report.result("share_after_rl", share, "of the baseline")
    if share > COLLAPSED_SHARE:
        cooling = ReheatSpec(
            **job_fields(1),
            tau=0.8,
            max_tokens=COMPLETION_TOKENS,
            target_entropy=COLLAPSED_SHARE * healthy.baseline.mean,
        )
        Reheater(policy, cooling, sampler, _prompts(), Highest()).run()
    policy.save(adapter, healthy.folder)
    entropy = _entropy(policy)
    report.result("share_after_cooling", entropy.mean / healthy.baseline.mean, "of the baseline")
    return Start(healthy.folder, adapter, entropy, healthy.baseline)


def run(item: tuple[Start, ReheatRequest]) -> Reheated:
    start, request = item
    began = time.monotonic()
    spec = start.spec(request)
    assert spec.target_entropy is not None
    policy = start.load()
    highest = Highest()
    outcome = Reheater(policy, spec, _sampler(policy), _prompts(), highest).run()
    seconds = time.monotonic() - began
    return Reheated(
        target=spec.target_entropy,
        steps=outcome.steps,
        stopped=outcome.stopped,
        ratio=_entropy(policy).mean / spec.target_entropy,
        highest_ratio=highest.entropy / spec.target_entropy,
        accuracy=_accuracy(policy),
        seconds=seconds,
    )


def is_refused(start: Start) -> bool:
    """Whether a policy is not reheated without `force`."""
    try:
        check_collapsed(ReheatRequest(), None, start.entropy, start.limits)
    except BadInputError as refusal:
        print(f"refused: {refusal.message}")
        return True
    return False


def _task() -> list[Problem]:
    return problems(RL_PROBLEMS, "train", seed=1)


def _prompts() -> list[Messages]:
    return [problem.messages for problem in _task()]


def _sampler(policy: Policy) -> InProcessSampler:
    probes = _prompts() * (PROBES // RL_PROBLEMS)
    return InProcessSampler(policy, WordCodec(), probes, probe_tokens=COMPLETION_TOKENS)


def _entropy(policy: Policy) -> EntropyEstimate:
    return _sampler(policy).measure_entropy(JUDGE_SEED)


def _accuracy(policy: Policy) -> float:
    batch = evaluation_batch(_task(), ACCURACY, COMPLETION_TOKENS, seed=0)
    return measure_accuracy(_sampler(policy), _task(), InProcessScorer(reward), batch).value


if __name__ == "__main__":
    main()
