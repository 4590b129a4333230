"""Steps of `bench.gpu_check` that need no engine: losses, gradients, TS-OPSD, RL and the memory of training."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import torch
from torch import Tensor

import workers.policy
from bench.gpu_steps import Check, Figures
from bench.recorded import RecordedSampler, Stopwatch, job_fields
from bench.rl_sides import hash_reward
from bench.sides import peak_memory
from reheatd.config import Settings
from reheatd.jobs.contracts import ReheatSpec, RLSpec
from reheatd.options import LoraOptions, TaskOptions, WindowOptions
from reheatd.plan.demand import demand_of
from reheatd.plan.fit import Demand, Machine, fit
from reheatd.plan.memory import Needs
from reheatd.plan.placement import place
from reheatd.plan.shape import PolicyShape
from reheatd.task_data import Problem, load_task
from workers.grpo import Grpo
from workers.losses import chunked_divergence, chunked_logprobs
from workers.policy import Policy, TokenBatch, Weights
from workers.rewards.scoring import InProcessScorer
from workers.sampling.in_process import ChatCodec, InProcessSampler
from workers.sampling.rollout import Rollout
from workers.ts_opsd import Reheater

TAU = 1.5
MIB, GIB = 1 << 20, 1 << 30
FORMATS = {"bf16": torch.bfloat16, "fp32": torch.float32}


def losses(check: Check) -> Figures:
    """The fused losses and their gradients, relative to the same in float64 on the CPU.

    Both sides get the same inputs, rounded to the format. The unit tests hold the losses in float64 to plain autograd.
    """
    tokens, width, vocabulary = check.size.loss
    generator = torch.Generator().manual_seed(0)
    student_TD, noise_TD = torch.randn(2, tokens, width, generator=generator)
    head_VD = torch.randn(vocabulary, width, generator=generator) * (2.0 / width**0.5)
    targets_T = torch.randint(vocabulary, (tokens,), generator=generator)
    teacher_TD = student_TD + 0.3 * noise_TD
    figures: Figures = {}
    for name, dtype in FORMATS.items():
        student, teacher, head = (tensor.to(dtype) for tensor in (student_TD, teacher_TD, head_VD))
        found = _losses(*(tensor.to(check.device) for tensor in (student, teacher, head, targets_T)))
        exact = _losses(student.double(), teacher.double(), head.double(), targets_T)
        for loss, (values_T, gradient_TD) in found.items():
            right_T, right_TD = exact[loss]
            figures[f"{loss}_error_{name}"] = _difference(values_T, right_T)
            figures[f"{loss}_gradient_error_{name}"] = _difference(gradient_TD, right_TD)
    return figures


def _losses(*inputs: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Each loss by token, with its gradient with respect to the student's states.

    Args:
        inputs: The student's states, the teacher's, the LM head and the targets.
    """
    student_TD, teacher_TD, head_VD, targets_T = inputs
    student_TD = student_TD.detach().requires_grad_()
    found = {
        kind: chunked_divergence(student_TD, head_VD, tau=TAU, kind=kind, teacher_TD=teacher_TD)[0]
        for kind in ("forward_kl", "reverse_kl", "jsd")
    }
    found["live_teacher"] = chunked_divergence(student_TD, head_VD, tau=TAU, kind="forward_kl")[0]
    found["logprobs"], found["entropy"] = chunked_logprobs(student_TD, head_VD, targets_T)
    return {
        name: (values_T.detach(), torch.autograd.grad(values_T.sum(), student_TD, retain_graph=True)[0])
        for name, values_T in found.items()
    }


def gradients(check: Check) -> Figures:
    """Gradients of the LoRA in float32, packed: against padded ones, checkpointed ones and those on the CPU."""
    generator = torch.Generator().manual_seed(0)
    model = check.policy
    expected = _gradient(model, check, generator.clone_state())
    checkpointed = _gradient(model, check, generator.clone_state(), checkpointing=True)
    with patch.object(workers.policy, "can_pack", lambda _: False):
        padded = _gradient(model, check, generator.clone_state())
    return {
        "packed_vs_padded": _difference(expected, padded),
        "checkpointed_vs_kept": _difference(checkpointed, expected),
        "vs_cpu": _difference(expected, _gradient(model, check, generator.clone_state(), device="cpu")),
    }


def _gradient(
    model: Path, check: Check, generator: torch.Generator, *, checkpointing: bool = False, device: str | None = None
) -> Tensor:
    """The gradient of all LoRA weights in a pass over sequences of mixed lengths, half of them with a shared prompt."""
    device = device or check.device
    policy = Policy.load(model, LoraOptions(), dtype="float32", checkpointing=checkpointing, device=device)
    policy.set_weights([0.02 * torch.randn(weight.shape, generator=generator) for weight in policy.parameters()])
    vocabulary = policy.head_VD.shape[0]

    def tokens(count: int) -> list[int]:
        return torch.randint(vocabulary, (count,), generator=generator).tolist()

    shared = tokens(30)
    prompts = [tokens(12) if index % 2 else shared for index in range(len(check.size.lengths))]
    batch = TokenBatch.build(
        [(prompt, tokens(count)) for prompt, count in zip(prompts, check.size.lengths, strict=True)], policy.device
    )
    divergence_T, _, _ = chunked_divergence(policy.hidden(batch), policy.head_VD, tau=TAU, kind="forward_kl")
    policy.add_gradients(divergence_T.sum())
    return torch.cat([weight.grad.flatten() for weight in policy.parameters() if weight.grad is not None])


def ts_opsd(check: Check) -> Figures:
    """Two steps of TS-OPSD on the bundled task, sampled in process; the second is timed."""
    size, policy = check.size, _policy(check)
    prompts = [problem.messages for problem in _problems(size.prompts)]
    sampler = InProcessSampler(policy, ChatCodec(policy), prompts, probe_tokens=size.max_tokens)
    spec = ReheatSpec(
        **job_fields(check.policy),
        tau=TAU,
        steps=2,
        warmup_steps=0,
        prompts_per_step=size.prompts,
        max_tokens=size.max_tokens,
    )
    watch, before = Stopwatch(), policy.weights()
    Reheater(policy, spec, sampler, prompts, watch).run()
    return _of_steps(watch, before, policy, "loss", "entropy", "teacher_entropy", "grad_norm")


def rl(check: Check) -> Figures:
    """Two steps of RL on the bundled task with a random reward, sampled in process; the second is timed."""
    size, policy = check.size, _policy(check)
    problems = _problems(size.prompts)
    sampler = InProcessSampler(
        policy, ChatCodec(policy), [problem.messages for problem in problems], probe_tokens=size.max_tokens
    )
    spec = RLSpec(
        **job_fields(check.policy),
        steps=2,
        warmup_steps=0,
        prompts_per_step=size.prompts,
        group_size=size.group_size,
        max_tokens=size.max_tokens,
    )
    watch, before = Stopwatch(), policy.weights()
    Grpo(policy, spec, sampler, problems, InProcessScorer(hash_reward), watch).run()
    return _of_steps(watch, before, policy, "reward", "entropy", "grad_norm", "logprob_gap")


def _policy(check: Check) -> Policy:
    return Policy.load(check.policy, LoraOptions(), device=check.device)


def _problems(count: int) -> Sequence[Problem]:
    return load_task(TaskOptions(), WindowOptions()).train[:count]


def _of_steps(watch: Stopwatch, before: Weights, policy: Policy, *names: str) -> Figures:
    """Figures of the last step, and how far the weights have moved in all of them."""
    moved = math.sqrt(sum(float((new - old).square().sum()) for new, old in zip(policy.weights(), before, strict=True)))
    figures = {name: watch.metrics[-1][name] for name in names}
    return figures | {"train_s": watch.seconds[-1], "weights_moved": moved}


def plan(check: Check) -> Figures:
    """The memory of steps of RL on long rollouts, beside what `reheatd plan` says that a worker takes for them."""
    memory = peak_memory()
    policy = _policy(check)
    settings, (prompt_tokens, tokens) = Settings(), check.size.long_tokens
    shape = PolicyShape.of(policy.model.config.get_text_config())
    tokens = min(tokens, (shape.positions or sys.maxsize) - prompt_tokens)
    demand = demand_of(settings, shape, prompt_tokens=prompt_tokens, tokens=tokens)
    planned = planned_worker(demand, Machine(check.device, _memory_bytes(check), policy.model.dtype.itemsize))

    rl = settings.rl
    groups = _random_groups(policy, rl.prompts_per_step, rl.group_size, prompt_tokens, tokens)
    spec = RLSpec(
        **job_fields(check.policy),
        steps=2,
        prompts_per_step=rl.prompts_per_step,
        group_size=rl.group_size,
        max_tokens=tokens,
        max_resamples=0,
    )
    watch = Stopwatch()
    problems = [Problem([{"role": "user", "content": ""}], "")] * len(groups)
    Grpo(policy, spec, RecordedSampler(groups), problems, InProcessScorer(_by_text), watch).run()
    taken, answer_tokens = memory.mib() * MIB, rl.prompts_per_step * rl.group_size * tokens
    expected = planned.total - planned.runtime
    return {
        "planned_gib": expected / GIB,
        "taken_gib": taken / GIB,
        "taken_vs_planned": taken / expected,
        "train_s": watch.seconds[-1],
        "train_tokens_per_s": answer_tokens / watch.seconds[-1],
    }


def planned_worker(demand: Demand, machine: Machine) -> Needs:
    """What a worker takes that has the device to itself, as in this step; on a GPU, the engine then has another one."""
    gpus = ["0", "1"] if machine.device == "cuda" else []
    return fit(demand, machine, place(gpus, replicas=1, workers=1, heads=demand.shape.heads)).worker


def _memory_bytes(check: Check) -> int:
    return torch.cuda.mem_get_info()[1] if check.device == "cuda" else psutil.virtual_memory().total


def _by_text(completion: str, answer: str) -> float:
    return float(completion)


def _random_groups(policy: Policy, prompts: int, n: int, prompt_tokens: int, tokens: int) -> list[list[Rollout]]:
    """Groups of random rollouts; every other one is right."""
    generator = torch.Generator().manual_seed(0)

    def draw(count: int) -> list[int]:
        return torch.randint(policy.head_VD.shape[0], (count,), generator=generator).tolist()

    groups: list[list[Rollout]] = []
    for _ in range(prompts):
        prompt = draw(prompt_tokens)
        rewards = [str(index % 2) for index in range(n)]
        groups.append([Rollout(prompt, draw(tokens), reward, [-9.0] * tokens, "random", False) for reward in rewards])
    return groups


def _difference(found: Tensor, right: Tensor) -> float:
    """The norm of the difference, relative to that of what is right."""
    exact: Any = right.detach().cpu().double()
    return float((found.detach().cpu().double() - exact).norm() / exact.norm())
