"""What the benchmarks' runs of TRL's trainers share: the arguments, the adapter, the stopwatch and the run."""

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback

from reheatd.options import LoraOptions


def trainer_arguments(folder: str, *, steps: int, learning_rate: float, checkpointing: bool) -> dict[str, Any]:
    """Arguments of a trainer that takes `steps` steps in bfloat16, and neither saves nor reports anything."""
    return {
        "output_dir": folder,
        "gradient_checkpointing": checkpointing,
        "max_steps": steps,
        "learning_rate": learning_rate,
        "shuffle_dataset": False,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "bf16": True,
        "seed": 0,  # that of reheatd's policy, so that both adapters begin alike
        "use_cpu": not torch.cuda.is_available(),
    }


def train(
    trainer: Callable[..., Any], prompts: Iterable[str], steps: int, tokenizer: Any, **arguments: Any
) -> tuple[list[float], dict[str, float]]:
    """Trains on `prompts`, and returns the seconds of each of `steps` steps and what the first of them logged."""
    watch = StepWatch()
    running = trainer(
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts] * steps),
        processing_class=tokenizer,
        callbacks=[watch],
        peft_config=peft_config(),
        **arguments,
    )
    running.train()
    return watch.seconds, running.state.log_history[0]


def peft_config() -> LoraConfig:
    """The adapter that reheatd's side trains."""
    lora = LoraOptions()
    return LoraConfig(r=lora.rank, lora_alpha=int(lora.alpha), target_modules=lora.target_modules)


class StepWatch(TrainerCallback):
    """Takes the time of every step, including the rollouts, which the benchmarks give from a list."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._begun = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._begun = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self._begun)
