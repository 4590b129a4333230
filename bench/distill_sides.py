"""One side of `bench.distill`'s comparison of whole training steps: `python -m bench.distill_sides SIDE OPTIONS`.

Both sides take the same steps: SmolLM2-135M in bfloat16, a new rank-16 adapter on every linear layer, the frozen
teacher at `tau`, forward KL, and the same recorded rollouts in every step. TRL's teacher is a second copy of the model
with its final norm divided by tau, which gives the same distribution.
"""

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench.recorded import RecordedSampler, Stopwatch, bench_policy, job_fields
from bench.rollout_file import policy_path, read_rollouts
from bench.sides import peak_memory, print_side
from reheatd.jobs.contracts import ReheatSpec
from reheatd.options import Checkpointing
from workers.ts_opsd import Reheater

LEARNING_RATE = 1e-4


def reheatd_side(
    rollouts: Path,
    tau: float,
    steps: int,
    teacher: str = "frozen",
    checkpointing: Checkpointing = "auto",
    model: Path | None = None,
) -> dict[str, Any]:
    groups = read_rollouts(rollouts)
    memory = peak_memory()
    policy = bench_policy(model, checkpointing=checkpointing)
    spec = ReheatSpec(
        **job_fields(model),
        tau=tau,
        steps=steps,
        teacher=teacher,  # pyright: ignore[reportArgumentType]
        learning_rate=LEARNING_RATE,
        prompts_per_step=len(groups),
        max_tokens=max(len(rollout.token_ids) for group in groups for rollout in group),
        refresh_every=1,
    )
    watch = Stopwatch()
    prompts = [[{"role": "user", "content": ""}]] * len(groups)
    Reheater(policy, spec, RecordedSampler(groups), prompts, watch).run()
    return {"seconds": watch.seconds, "loss": watch.metrics[0]["loss"], "peak_mib": memory.mib()}


def trl_side(
    rollouts: Path, tau: float, steps: int, checkpointing: bool, batch: int = 8, model: Path | None = None
) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.trainer.distillation_config import DistillationConfig
    from trl.trainer.distillation_trainer import DistillationTrainer

    from bench.trl_side import train, trainer_arguments

    groups = read_rollouts(rollouts)
    memory = peak_memory()
    folder = model or policy_path()
    student: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    teacher: Any = copy.deepcopy(student)
    with torch.no_grad():
        teacher.model.norm.weight.div_(tau)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    completions = {tokenizer.decode(group[0].prompt_ids): group[0].token_ids for group in groups}

    class Recorded(DistillationTrainer):
        def _generate_single_turn(self, prompt_ids: Any, *_: Any, **__: Any) -> Any:
            return [completions[tokenizer.decode(ids)] for ids in prompt_ids]

    with tempfile.TemporaryDirectory() as output:
        config = DistillationConfig(
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=len(groups) // batch,
            beta=0.0,
            max_completion_length=max(len(group[0].token_ids) for group in groups),
            **trainer_arguments(output, steps=steps, learning_rate=LEARNING_RATE, checkpointing=checkpointing),
        )
        seconds, first = train(
            Recorded, completions, steps, tokenizer, model=student, teacher_model=teacher, args=config
        )
    return {"seconds": seconds, "loss": first["loss"], "peak_mib": memory.mib()}


if __name__ == "__main__":
    print_side({"reheatd": reheatd_side, "trl": trl_side})
