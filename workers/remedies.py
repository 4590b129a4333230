"""The remedies for a policy that has collapsed or stalled.

Each changes the student, which is its parent when the remedy begins:

- `ts_opsd`: TS-OPSD to the target entropy (`workers.ts_opsd`);
- `shrink`: the LoRA scaled down to the target entropy, without training (`workers.shrink`);
- `entropy_bonus`: continued RL with a bonus on entropy up to the target, which acts on every rollout;
- `hot`: continued RL with hotter rollouts.
"""

from collections.abc import Sequence
from typing import Any

from reheatd.jobs.contracts import JobBase, ReheatSpec, RLSpec
from reheatd.options import RL_REMEDIES, RLOptions
from reheatd.task_data import Problem
from workers.checkpoint import Checkpoints
from workers.grpo import Grpo, RLOutcome
from workers.policy import Policy
from workers.progress import Progress
from workers.rewards.scoring import Scorer
from workers.sampling.recording import RecordedSampling, Recording
from workers.sampling.rollout import Sampler
from workers.shrink import Shrinker, ShrinkOutcome
from workers.ts_opsd import Reheater, ReheatOutcome

Outcome = ReheatOutcome | ShrinkOutcome | RLOutcome
Trainer = Reheater | Shrinker | Grpo


def make_trainer(
    policy: Policy,
    spec: ReheatSpec | RLSpec,
    sampler: Sampler,
    problems: Sequence[Problem],
    scorer: Scorer,
    progress: Progress,
    checkpoints: Checkpoints | None = None,
    recording: Recording | None = None,
) -> Trainer:
    """What carries out the job: RL, or the reheat's remedy, which must not be `auto`.

    Args:
        problems: The problems that are trained on.
        checkpoints: Where the job goes on after its worker died; None starts at the beginning.
        recording: Keeps rollouts for people to read; None keeps none.
    """
    if isinstance(spec, ReheatSpec) and spec.remedy in RL_REMEDIES:
        spec = rl_of(spec)
    if isinstance(spec, RLSpec):
        return Grpo(policy, spec, sampler, problems, scorer, progress, checkpoints, recording)
    if spec.remedy == "shrink":
        return Shrinker(policy, spec, sampler, progress)
    if spec.remedy != "ts_opsd":
        raise ValueError(f"{spec.remedy} is no single remedy")
    recorded = sampler if recording is None else RecordedSampling(sampler, recording)
    prompts = [problem.messages for problem in problems]
    return Reheater(policy, spec, recorded, prompts, progress, checkpoints, recording and recording.learned)


def rl_of(spec: ReheatSpec) -> RLSpec:
    """The job of continued RL that the remedies `entropy_bonus` and `hot` are."""
    changed: dict[str, Any] = {"temperature": spec.hot_temperature, "staleness": 0}
    if spec.remedy == "entropy_bonus":
        changed = {"temperature": 1.0, "entropy_bonus": spec.bonus, "bonus_target": spec.target_entropy}
    options = RLOptions.model_validate(spec.rl.model_dump() | changed)
    job = {name: getattr(spec, name) for name in JobBase.model_fields}
    return RLSpec(**job, **options.model_dump(), places=spec.places)
