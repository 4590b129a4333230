"""Options of jobs and of their measurements: each is declared once, with its bounds and its meaning.

Everything else is made from these models: the tables of the configuration, the specification of a job, the requests
that give some options for one job, the flags of the command line and the file that `reheatd init --full` writes. An
option that is added here appears in all of these places.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)

from reheatd.measures import Contract
from reheatd.presets import PAPER_REHEAT, PAPER_RL
from reheatd.validation import or_auto

LORA_TARGETS = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "o_proj": ("o_proj",),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "down_proj": ("down_proj",),
}
"""Layers that the engine has LoRA for: each of vLLM's fused modules, with the model's own modules it is made of."""

IDLE_CLIP = (
    "cannot act with epochs = 1 and minibatches = 1, because the ratio that it clips is always 1; raise one of them or "
    "leave the clip out"
)
"""The end of a message that refuses a clip."""

Remedy = Literal["ts_opsd", "shrink", "entropy_bonus", "hot", "auto"]
RL_REMEDIES = ("entropy_bonus", "hot")
"""Remedies that are continued RL with other options."""
NumberFormat = Literal["auto", "float32", "bfloat16"]
Checkpointing = Literal["auto"] | bool


class Options(Contract):
    """A set of options. Unknown names and numbers that are not finite are errors."""

    model_config = ConfigDict(allow_inf_nan=False)


class TrainingOptions(Options):
    """Options that both kinds of training have."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]]
    """The options that each preset sets."""

    preset: Literal["paper"] | None = None
    """Set of options that stands for those that are not given beside it: `paper` is the table of arXiv 2606.00755, but
    not its number of steps. The paper trains all weights, so its learning rate is too small for a LoRA."""
    max_tokens: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """Tokens per rollout. `auto` is as long as the policy answers the task: 1.25 times the 95th percentile of its own
    answers to training problems, within `policy.max_model_len`. The first job on a task finds it, and later ones keep
    it."""
    warmup_steps: int = Field(default=3, ge=0)
    """Optimiser steps in which the learning rate rises to its value. Without them, Adam's first steps have full size
    whatever the gradient is."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Largest norm of a gradient; a larger gradient is scaled down to it."""

    @property
    def rollout_tokens(self) -> int:
        """`max_tokens` in a worker that trains: by then it is a number."""
        if self.max_tokens == "auto":
            raise RuntimeError("max_tokens is used before it is found; see workers.rollout_length")
        return self.max_tokens

    def with_length(self, tokens: int | None) -> Self:
        """These options with `tokens` as their `max_tokens` if that is `auto`; None leaves it so."""
        return self if tokens is None or self.max_tokens != "auto" else self.model_copy(update={"max_tokens": tokens})

    @field_validator("max_tokens", mode="wrap")
    @classmethod
    def _tokens_or_auto(cls, value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        return or_auto(value, validate, "a whole number of at least 1")

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, value: Any) -> Any:
        """Adds what the preset sets, except for what is given."""
        if not isinstance(value, dict) or not isinstance(name := value.get("preset"), str):
            return value
        chosen = dict(cls.presets.get(name, {}))
        if value.get("target_entropy") is not None:
            chosen.pop("target_ratio", None)  # a target that is given takes the preset's place
        return {**chosen, **value}


class ReheatOptions(TrainingOptions):
    """Options of a reheat: what is done about a collapse, and how.

    Unless `remedy` says otherwise, that is TS-OPSD (arXiv 2606.00755), in which the policy's own logits divided by tau
    are its teacher.
    """

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": PAPER_REHEAT}

    remedy: Remedy = "ts_opsd"
    """What is done: TS-OPSD (`ts_opsd`); the adapter scaled down towards the base, without training (`shrink`);
    continued RL with an entropy bonus (`entropy_bonus`) or with hotter rollouts (`hot`); or whichever of these brings
    most signal back (`auto`)."""
    tau: float | None = Field(default=None, gt=0)
    """Temperature of the teacher: above 1 reheats, below 1 cools. It is no dial for how far a reheat goes; the target
    is. Default: 1.2 for a live teacher, and 2 for a frozen one."""
    target_ratio: float | None = Field(default=None, gt=0)
    """Entropy at which a reheat stops, as a share of the baseline. Default: the entropy of the run's stable phase, but
    at least 1.5 times the collapse threshold, which is 15% of the baseline. A cooling has no target by default."""
    target_entropy: float | None = Field(default=None, gt=0)
    """Entropy at which a reheat stops, in nats per token; takes the place of target_ratio."""
    steps: int = Field(default=100, ge=1)
    """Largest number of optimiser steps of a reheat, which ends as soon as the target is reached."""
    teacher: Literal["live", "frozen"] = "live"
    """Teacher: the student as it is at that step, without gradient (`live`, as in the paper), or the collapsed policy
    as it was (`frozen`, a variant of ours)."""
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    """Divergence between teacher and student."""
    min_p: float | None = Field(default=None, gt=0, lt=1)
    """Limit of a tail-safe teacher: it changes only tokens with p >= min_p * max p and leaves the tail as it was."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Adam learning rate of the LoRA weights. Default: 1e-4 for a live teacher, which moves on with the student, and
    1e-3 for a frozen one."""
    prompts_per_step: int = Field(default=16, ge=1)
    """Rollouts per optimiser step."""
    refresh_every: int = Field(default=1, ge=1)
    """Optimiser steps between two refreshes of the rollouts from the served engine."""
    towards: int | None = Field(default=None, ge=0)
    """Version towards which `shrink` interpolates. Default: the base."""
    bonus: float = Field(default=0.01, gt=0)
    """Weight of the bonus of `entropy_bonus`, in the loss of RL."""
    hot_temperature: float = Field(default=1.5, gt=1, le=2)
    """Temperature of the rollouts of `hot`."""
    signal_problems: int = Field(default=128, ge=8)
    """Training problems that `auto` tries, to compare its candidates on those that the policy never solves."""
    signal_samples: int = Field(default=16, ge=2)
    """Answers to each of these problems: once from the policy to find the lost ones, and to each lost one again from
    the policy and from every candidate."""


class RLOptions(TrainingOptions):
    """Options of continued RL: group-relative policy gradient with verifiable rewards."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": PAPER_RL}

    steps: int = Field(default=20, ge=1)
    """Steps of one job of continued RL: the batches of rollouts that it learns from."""
    prompts_per_step: int = Field(default=4, ge=1)
    """Problems per step."""
    group_size: int = Field(default=4, ge=2)
    """Rollouts per problem."""
    learning_rate: float = Field(default=1e-4, gt=0)
    """Adam learning rate of the LoRA weights."""
    temperature: float = Field(default=1.0, gt=0, le=2)
    """Sampling temperature of the rollouts."""
    patience: int = Field(default=10, ge=1)
    """Steps in a row without a group whose rewards differ, after which the job ends early: it learns nothing."""
    staleness: int = Field(default=0, ge=0, le=1)
    """Age of the rollouts that a step learns from, in steps. With 1, the next rollouts are sampled while a step
    trains, so that neither waits for the other. They then come from the policy before that step. Importance weights
    correct for this, with more noise, and up to `importance_cap`. It needs rollouts at temperature 1."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the rollouts of a step. One pass takes `minibatches` optimiser steps."""
    minibatches: int = Field(default=1, ge=1)
    """Optimiser steps into which the rollouts of a step are split. With more than one, all but the first learn from
    rollouts of a policy that has changed since, and the clip acts."""
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """Lower clip: the ratio to the policy before the step's first optimiser step is clipped at 1 - clip_low. With
    one epoch and one mini-batch that ratio is always 1, so no clip acts; changing one is then an error."""
    clip_high: float = Field(default=0.28, gt=0)
    """Upper clip: the same ratio is clipped at 1 + clip_high. A value above clip_low leaves room to explore. It acts
    only where clip_low does."""
    importance_cap: float = Field(default=2.0, gt=0)
    """Largest importance weight between the trainer's policy and the one that sampled, by the log-probabilities of
    trainer and engine; larger ones are truncated. The two differ by their kernels and, with staleness, by a step."""
    normalise_std: bool = False
    """Whether advantages are divided by the standard deviation of their group's rewards."""
    normalisation: Literal["tokens", "constant"] = "tokens"
    """Divisor of the summed loss: the batch's tokens (`tokens`, DAPO), or its rollouts times max_tokens (`constant`,
    Dr. GRPO). The constant does not favour short right answers and long wrong ones."""
    max_resamples: int = Field(default=2, ge=0)
    """How often per step groups without variance are replaced by further problems, at most. A group whose rewards are
    all equal teaches nothing."""
    mask_truncated: bool = False
    """Whether rollouts that were cut off at max_tokens are left out of the loss."""
    kl_coef: float = Field(default=0.0, ge=0)
    """Weight of KL(student || parent) in the loss; 0 saves a forward pass per step."""
    entropy_bonus: float = Field(default=0.0, ge=0)
    """Weight of the policy's entropy, which the loss rewards. It acts on every rollout, also on those of groups whose
    rewards are all equal. 0 turns it off."""
    bonus_target: float | None = Field(default=None, gt=0)
    """Entropy on the rollouts, in nats per token, up to which the bonus acts: its weight falls in proportion to what
    is missing. Default: the weight stays."""

    @model_validator(mode="after")
    def _bonus_that_can_act(self) -> "RLOptions":
        if self.bonus_target is not None and not self.entropy_bonus:
            raise ValueError(
                f"bonus_target = {self.bonus_target:g} does nothing without a bonus; set entropy_bonus, e.g. to 0.01"
            )
        if self.bonus_target is not None and self.temperature != 1:
            raise ValueError(
                f"bonus_target = {self.bonus_target:g} needs rollouts at temperature 1, which show the policy's "
                f"entropy, but temperature = {self.temperature:g}; set temperature to 1 or leave bonus_target out"
            )
        return self

    @model_validator(mode="after")
    def _staleness_that_can_be_weighted(self) -> "RLOptions":
        if self.staleness and self.temperature != 1:
            raise ValueError(
                f"staleness = {self.staleness} needs rollouts at temperature 1, at which the engine returns the "
                "probabilities that stale rollouts are weighted with, but temperature = "
                f"{self.temperature:g}; set temperature to 1 or staleness to 0"
            )
        return self

    def idle_clip(self, given: Collection[str]) -> str | None:
        """The first of the clips in `given` that cannot act, because every ratio is 1; None if there is none."""
        if self.epochs > 1 or self.minibatches > 1:
            return None
        return next((name for name in ("clip_low", "clip_high") if name in given), None)


class LoraOptions(Options):
    """Shape of a new adapter."""

    rank: int = Field(default=16, ge=1)
    """LoRA rank."""
    alpha: float = Field(default=32.0, gt=0)
    """LoRA alpha; the update is scaled by alpha / rank."""
    target_modules: list[str] = Field(
        default=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"], min_length=1
    )
    """Modules that get a LoRA; the LM head never does."""


class TaskOptions(Options):
    """The verifiable task, and how a version's accuracy on it is measured."""

    path: Path | None = None
    """Verifiable problems: a file (JSON lines or parquet) or folder, a data set of the Hugging Face hub (`owner/name`
    or `owner/name@revision`), `reasoning_gym:NAME`, `verifiers:NAME`, or another installed source. Default: the
    bundled arithmetic."""
    subset: str | None = None
    """Subset of a folder or a data set of the hub. Default: the only one, `default` or `main`."""
    split: str | None = None
    """Split of a folder or a data set of the hub. Default: the only one, or `train`."""
    columns: dict[Literal["prompt", "answer"], str] = Field(default={})
    """Fields that hold prompt and answer, e.g. {prompt = "query", answer = "meta.gold"}. Default: those that data sets
    in use have: prompt, question, problem or messages; answer, ground_truth, test or solution."""
    arguments: dict[str, Any] = Field(default={})
    """Arguments of a source, e.g. {size = 2000} for reasoning_gym."""
    reward: str | None = None
    """Reward: `numeric`, `exact`, `regex`, `json_schema`, `unit_tests`, the name of another installed reward, or
    `module:function`. Default: the scorer of the task's source if it has one, and else `numeric`."""
    rewards: dict[str, float] = Field(default={})
    """Several rewards with their weights, in the place of `reward`, e.g. {numeric = 1.0, "my_rewards:polite" = 0.2}.
    Training learns from the weighted sum. The first decides whether a problem counts as solved."""
    reward_timeout_s: float = Field(default=5.0, gt=0)
    """Longest time a reward may take for one completion, in seconds; a reward that takes longer is killed and scores
    0."""
    eval_count: int = Field(default=128, ge=1)
    """Held-out problems on which accuracy before and after a job is compared; at most half of all problems. With fewer,
    the accuracy gate more often has no evidence."""
    eval_samples: int = Field(default=8, ge=1)
    """Answers k per held-out problem, from which avg@k and pass@k are measured."""
    eval_temperature: float = Field(default=1.0, ge=0, le=2)
    """Sampling temperature of the answers. 0 decodes greedily, which gives one answer: set eval_samples to 1 with
    it."""
    eval_top_p: float = Field(default=0.7, gt=0, le=1)
    """Share of the probability from which the answers are sampled: the most probable tokens that hold it. Below 1, the
    tail that a reheat warms on purpose does not count as a loss of accuracy; 0.7 is the paper's value."""
    eval_max_tokens: int | None = Field(default=None, ge=1)
    """Longest answer to a held-out problem, in tokens. Default: as long as rollouts of continued RL, which is a job's
    own max_tokens if the job is one of RL, and `rl.max_tokens` for all others; where that is `auto`, what is found."""

    @model_validator(mode="after")
    def _one_way_to_name_rewards(self) -> "TaskOptions":
        if self.rewards and self.reward is not None:
            raise ValueError(f"reward = {self.reward!r} has no meaning beside rewards; leave one of them out")
        if self.rewards and not any(self.rewards.values()):
            raise ValueError("rewards has no weight other than 0, so there is nothing to learn from; set one")
        return self

    @model_validator(mode="after")
    def _greedy_is_one_answer(self) -> "TaskOptions":
        if self.eval_temperature == 0 and self.eval_samples > 1:
            raise ValueError(
                f"eval_temperature = 0 gives the same answer each time, but eval_samples = {self.eval_samples}; set "
                "eval_samples to 1, or sample at a temperature above 0"
            )
        return self


class WindowOptions(Options):
    """How a window of entropy is measured, in the daemon and in its workers alike, except for how long answers are."""

    probes: Path | None = None
    """JSONL file of probe prompts ({"messages": [...]} or {"prompt": "..."}); default: prompts of the task, which are
    then neither trained on nor held out."""
    probe_count: int = Field(default=32, ge=2)
    """Probe prompts that every window samples. A small task brings fewer, at most half of what its held-out problems
    leave."""
    top_k: int = Field(default=20, ge=1, le=63)
    """Top logprobs per token that the entropy estimator uses."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Level of the confidence intervals."""


class ProbeOptions(WindowOptions):
    """How a job measures the entropy on the probes: exactly as the daemon does."""

    max_tokens: int = Field(default=48, ge=1)
    """Longest answer to a probe, in tokens; the daemon's `entropy.max_tokens`, which is a number by now."""
    digest: str = ""
    """Digest of the daemon's probes, which the worker's must have too. Empty in a job of reheatd 0.1."""
