"""One side of `bench.rl`'s comparison of whole RL updates: `python -m bench.rl_sides SIDE OPTIONS`.

Both sides take the same steps: SmolLM2-135M in bfloat16, a new rank-16 adapter on every linear layer, the same recorded
groups with the same rewards in every step, advantages without division by the standard deviation, normalisation by a
constant, an asymmetric clip and no KL term. An update is everything from the rollouts to the optimiser's step.
"""

import statistics
import tempfile
import zlib
from itertools import cycle
from pathlib import Path
from typing import Any

import torch

import bench.recorded as stand_ins
from bench.rollout_file import policy_path, read_rollouts
from bench.sides import peak_memory, print_side
from reheatd.jobs.contracts import RLSpec
from reheatd.options import Checkpointing
from reheatd.task_data import Problem
from workers.grpo import Grpo
from workers.rewards.scoring import InProcessScorer
from workers.sampling.rollout import Rollout

LEARNING_RATE = 1e-5
CLIP_LOW, CLIP_HIGH = 0.2, 0.28


def hash_reward(completion: str, answer: str = "") -> float:
    """A reward that takes no time and is the same on both sides. Completions that differ have different rewards."""
    return zlib.crc32(completion.encode()) / 2**32


def longest_completion(groups: list[list[Rollout]]) -> int:
    return max(len(rollout.token_ids) for group in groups for rollout in group)


def reheatd_side(rollouts: Path, steps: int, checkpointing: Checkpointing = "auto") -> dict[str, Any]:
    groups = read_rollouts(rollouts)
    memory = peak_memory()
    policy = stand_ins.bench_policy(checkpointing=checkpointing)
    spec = RLSpec(
        **stand_ins.job_fields(),
        steps=steps,
        learning_rate=LEARNING_RATE,
        prompts_per_step=len(groups),
        group_size=len(groups[0]),
        clip_low=CLIP_LOW,
        clip_high=CLIP_HIGH,
        max_tokens=longest_completion(groups),
        normalisation="constant",
        max_resamples=0,
    )
    watch = stand_ins.Stopwatch()
    problems = [Problem([{"role": "user", "content": ""}], "")] * len(groups)
    Grpo(policy, spec, stand_ins.RecordedSampler(groups), problems, InProcessScorer(hash_reward), watch).run()
    first = {name: watch.metrics[0][name] for name in ("loss", "entropy", "grad_norm")}
    return {"seconds": watch.seconds, "peak_mib": memory.mib(), **first}


def trl_side(rollouts: Path, steps: int, checkpointing: bool, batch: int | None = None) -> dict[str, Any]:
    """Takes the steps with `batch` rollouts at a time, by default with a group.

    It generates one group at a time, because it pads what it generates together to the longest of it.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    from bench.trl_side import train, trainer_arguments

    groups = read_rollouts(rollouts)
    group_size = len(groups[0])
    batch = batch or group_size
    micro_batches = len(groups) * group_size // batch
    memory = peak_memory()
    model: Any = AutoModelForCausalLM.from_pretrained(policy_path(), dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(policy_path())
    recorded = {
        tokenizer.decode(group[0].prompt_ids): cycle(rollout.token_ids for rollout in group) for group in groups
    }

    entropies: list[tuple[float, int]] = []

    class Recorded(GRPOTrainer):
        def _generate_single_turn(self, prompt_ids: Any, *_: Any, **__: Any) -> Any:
            return [next(recorded[tokenizer.decode(ids)]) for ids in prompt_ids], None

        def _compute_loss(self, model: Any, inputs: Any) -> Any:
            loss = super()._compute_loss(model, inputs)
            entropies.append((self._metrics["train"]["entropy"][-1], int(inputs["completion_mask"].sum())))
            return loss

    def reward(completions: list[str], **_: Any) -> list[float | None]:
        return [hash_reward(completion) for completion in completions]

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=micro_batches,
            steps_per_generation=group_size // batch,
            num_generations=group_size,
            max_completion_length=longest_completion(groups),
            scale_rewards="none",
            loss_type="dr_grpo",
            beta=0.0,
            epsilon=CLIP_LOW,
            epsilon_high=CLIP_HIGH,
            **trainer_arguments(folder, steps=steps, learning_rate=LEARNING_RATE, checkpointing=checkpointing),
        )
        seconds, first = train(Recorded, recorded, steps, tokenizer, model=model, reward_funcs=reward, args=config)
    weights = [tokens for _, tokens in entropies[:micro_batches]]
    return {
        "seconds": seconds,
        "peak_mib": memory.mib(),
        "loss": first["loss"],
        "entropy": statistics.fmean([mean for mean, _ in entropies[:micro_batches]], weights),
        "grad_norm": first["grad_norm"],
    }


if __name__ == "__main__":
    print_side({"reheatd": reheatd_side, "trl": trl_side})
