"""Trains a policy with TRL's GRPO until its entropy has collapsed: what a user of another trainer comes with.

    python -m tests.trl_collapse MODEL OUT

writes the adapter to OUT/adapter, as TRL does, its log to OUT/run and the whole checkpoint to OUT/checkpoint.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, TrainerCallback
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer

from tests.repetition import reward

COLLAPSED_NATS = 0.16
"""Entropy at which learning is all but stopped, in nats per token. The policy begins at 2.6."""
LAST_STEPS = 10
"""Steps that follow, so that the log shows where the policy is."""


def repetition(completions: list[list[dict[str, str]]], **_: Any) -> list[float | None]:
    return [reward(completion[0]["content"], "") for completion in completions]


class StayCollapsed(TrainerCallback):
    """Lowers the learning rate once the policy has collapsed, because it would lose its last entropy soon."""

    steps = 0

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if self.steps or logs.get("entropy", COLLAPSED_NATS) < COLLAPSED_NATS:
            self.steps += 1
            control.should_training_stop = self.steps > LAST_STEPS

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        if self.steps:
            optimizer.param_groups[0]["lr"] = 1e-6


def main(model: str, out: Path) -> None:
    torch.set_num_threads(1)
    trainer: Any = GRPOTrainer(
        model=model,
        reward_funcs=repetition,
        train_dataset=Dataset.from_list(
            [{"prompt": [{"role": "user", "content": f"Write the word number {number}."}]} for number in range(64)]
        ),
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"),
        callbacks=[StayCollapsed()],
        args=GRPOConfig(
            output_dir=str(out / "run"),
            max_steps=200,
            learning_rate=1.5e-3,
            lr_scheduler_type="constant",
            per_device_train_batch_size=32,
            num_generations=8,
            max_completion_length=24,
            logging_steps=1,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
        ),
    )
    trainer.train()
    trainer.save_model(str(out / "adapter"))
    trainer.save_state()
    trainer.model.merge_and_unload().save_pretrained(out / "checkpoint")
    AutoTokenizer.from_pretrained(model).save_pretrained(out / "checkpoint")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
