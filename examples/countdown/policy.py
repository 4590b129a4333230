"""A Qwen3-shaped policy of 0.8M parameters, pretrained from scratch on solved Countdown problems."""

import random
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import Qwen3ForCausalLM

from examples.countdown.arms import LORA
from examples.countdown.task import COMPLETION_TOKENS, END, WORDS, solved_problems, token_ids
from examples.tiny_model import tiny_qwen3
from reheatd.files import publish_folder
from reheatd.options import LoraOptions
from workers.policy import Policy

BATCH = 256
PEAK_LEARNING_RATE = 2e-3
LAYERS = 4


def new_model(seed: int, layers: int = LAYERS) -> Qwen3ForCausalLM:
    return tiny_qwen3(
        len(WORDS),
        hidden_size=128,
        intermediate_size=384,
        layers=layers,
        heads=4,
        kv_heads=2,
        positions=64,
        eos=WORDS.index(END),
        seed=seed,
    )


def pretrain(folder: Path, steps: int, seed: int = 0, layers: int = LAYERS) -> None:
    """Trains a model on the solutions, not on the prompts, and saves it; `folder` appears complete or not at all."""
    model = new_model(seed, layers)
    generator = random.Random(seed)
    stream = solved_problems(generator, "train")
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=steps, pct_start=0.05)
    for step in range(steps):
        rows = [token_ids([*prompt, *solution, END]) for prompt, solution in islice(stream, BATCH)]
        ids_BL = torch.tensor(rows)
        hidden_BCD = model.model(input_ids=ids_BL).last_hidden_state[:, -COMPLETION_TOKENS - 1 : -1]
        logits_BCV = model.lm_head(hidden_BCD)
        loss = functional.cross_entropy(logits_BCV.flatten(0, 1), ids_BL[:, -COMPLETION_TOKENS:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if (step + 1) % max(1, steps // 10) == 0:
            print(f"pretraining: step {step + 1} of {steps}, {loss.item():.3f} nats per token", flush=True)
    with publish_folder(folder) as scratch:
        model.save_pretrained(scratch)


def load_policy(
    folder: Path, adapter: Path | None = None, *, tau: float = 1.0, lora: LoraOptions = LORA, seed: int = 0
) -> Policy:
    """The pretrained model with a student that starts from `adapter`.

    Args:
        tau: The model's final norm is divided by this, which divides every logit by it. The result is the exact
            solution of TS-OPSD with the frozen teacher.
    """
    model: Any = Qwen3ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        model.model.norm.weight.div_(tau)
    return Policy.on_model(model, None, lora, adapter, seed=seed)
