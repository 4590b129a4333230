"""One side of `bench.rl`'s comparison of whole RL updates: `python -m bench.rl_sides SIDE OPTIONS`.

Both sides take the same steps: SmolLM2-135M in bfloat16, a new rank-16 adapter on every linear layer, the same recorded
groups with the same rewards in every step, advantages without division by the standard deviation, token-level
normalisation, an asymmetric clip and no KL term. An update is everything from the rollouts to the optimiser's step.
"""

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
from reheatd.task_data import Problem
from workers.grpo import Grpo
from workers.rewards.scoring import InProcessScorer

LEARNING_RATE = 1e-5
CLIP_LOW, CLIP_HIGH = 0.2, 0.28


def coin(completion: str, answer: str = "") -> float:
    """A reward that takes no time and is the same on both sides."""
    return float(zlib.crc32(completion.encode()) % 2)


def reheatd_side(rollouts: Path, steps: int) -> dict[str, Any]:
    groups = read_rollouts(rollouts)
    memory = peak_memory()
    policy = stand_ins.bench_policy()
    spec = RLSpec(
        **stand_ins.job_fields(),
        steps=steps,
        learning_rate=LEARNING_RATE,
        prompts_per_step=len(groups),
        group_size=len(groups[0]),
        max_tokens=max(len(rollout.token_ids) for group in groups for rollout in group),
        clip_low=CLIP_LOW,
        clip_high=CLIP_HIGH,
        max_resamples=0,
    )
    watch = stand_ins.Stopwatch()
    problems = [Problem([{"role": "user", "content": ""}], "")] * len(groups)
    Grpo(policy, spec, stand_ins.RecordedSampler(groups), problems, InProcessScorer(coin), watch).run()
    return {"seconds": watch.seconds, "entropy": watch.metrics[0]["entropy"], "peak_mib": memory.mib()}


def trl_side(rollouts: Path, steps: int, checkpointing: bool) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    from bench.trl_side import train, trainer_arguments

    groups = read_rollouts(rollouts)
    group_size = len(groups[0])
    memory = peak_memory()
    model: Any = AutoModelForCausalLM.from_pretrained(policy_path(), dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(policy_path())
    recorded = {
        tokenizer.decode(group[0].prompt_ids): cycle(rollout.token_ids for rollout in group) for group in groups
    }

    class Recorded(GRPOTrainer):
        def _generate_single_turn(self, prompt_ids: Any, *_: Any, **__: Any) -> Any:
            return [next(recorded[tokenizer.decode(ids)]) for ids in prompt_ids], None

    def reward(completions: list[str], **_: Any) -> list[float | None]:
        return [coin(completion) for completion in completions]

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            per_device_train_batch_size=group_size,
            gradient_accumulation_steps=len(groups),
            num_generations=group_size,
            max_completion_length=max(len(rollout.token_ids) for group in groups for rollout in group),
            scale_rewards="none",
            loss_type="dapo",
            beta=0.0,
            epsilon=CLIP_LOW,
            epsilon_high=CLIP_HIGH,
            **trainer_arguments(folder, steps=steps, learning_rate=LEARNING_RATE, checkpointing=checkpointing),
        )
        seconds, entropy = train(
            Recorded, recorded, steps, tokenizer, model=model, reward_funcs=reward, args=config, figure="entropy"
        )
    return {"seconds": seconds, "entropy": entropy, "peak_mib": memory.mib()}


if __name__ == "__main__":
    print_side({"reheatd": reheatd_side, "trl": trl_side})
