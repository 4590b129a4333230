"""Gradients of the LoRA weights through the whole policy, with padded batches, against plain autograd in float64."""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from torch import Tensor

from reheatd.options import LoraOptions
from tests.unit.workers_support import tiny_model
from workers.losses import Divergence, chunked_divergence, chunked_logprobs
from workers.policy import Policy, TokenBatch
from workers.shared_prompts import Sequences

LORA = LoraOptions(rank=4, alpha=8)
SEQUENCES = [([1, 2, 3], [4, 5]), ([6], [7, 8, 9, 10, 11]), ([5, 5, 5, 5], [1]), ([2, 9], [3, 1, 4, 1])]
GROUPS = [
    *[([1, 2, 3, 4, 5, 6, 7], completion) for completion in ([4, 5], [4, 5], [9], [4, 8, 1])],
    *[([5, 5, 8], completion) for completion in ([1], [7, 7, 7, 3], [7, 2])],
    ([6, 1, 6, 1, 6], [2, 2]),
]
"""Rollouts of prompts of different lengths; equal ones among them, and a prompt with only one."""
TAU = 1.7


def reference_model(dtype: torch.dtype) -> PeftModel:
    """The same policy with peft's own layers, without padding, chunks or closed forms."""
    config = PeftLoraConfig(r=LORA.rank, lora_alpha=int(LORA.alpha), target_modules=LORA.target_modules)
    torch.manual_seed(0)
    return cast(PeftModel, get_peft_model(tiny_model().to(dtype), config))  # pyright: ignore[reportArgumentType]


def random_weights(weights: list[torch.nn.Parameter]) -> None:
    generator = torch.Generator().manual_seed(1)
    for weight in weights:
        weight.data.copy_(0.2 * torch.randn(weight.shape, generator=generator, dtype=torch.float64))


def lora_weights(model: PeftModel) -> list[torch.nn.Parameter]:
    return [weight for name, weight in model.named_parameters() if "lora_" in name]


def plain_gradients(sequences: Sequences, loss_of: Callable[[Tensor, Tensor, Tensor], Tensor]) -> list[Tensor]:
    """Of the sum over sequences of `loss_of(student logits, base logits, targets)`, each sequence by itself."""
    model = reference_model(torch.float64)
    weights = lora_weights(model)
    random_weights(weights)
    total = torch.zeros((), dtype=torch.float64)
    for prompt, completion in sequences:
        ids = torch.tensor([prompt + completion])
        with model.disable_adapter(), torch.no_grad():
            base = cast(Any, model)(input_ids=ids).logits[0]
        student = cast(Any, model)(input_ids=ids).logits[0]
        at = slice(len(prompt) - 1, -1)
        total = total + loss_of(student[at], base[at], torch.tensor(completion))
    return list(torch.autograd.grad(total, weights))


def fused_gradients(
    sequences: Sequences, dtype: torch.dtype, loss_of: Callable[[Policy, TokenBatch], Tensor]
) -> list[Tensor]:
    policy = Policy.on_model(tiny_model().to(dtype), None, LORA)  # pyright: ignore[reportArgumentType]
    weights = policy.parameters()
    random_weights(weights)
    batch = TokenBatch.build(sequences, policy.device)
    assert batch.pack.shares_prompts == (sequences is GROUPS)
    return list(torch.autograd.grad(loss_of(policy, batch), weights))


def assert_agree(sequences: Sequences, fused: list[Tensor], exact: list[Tensor], tolerance: float) -> None:
    """Groups are computed in other shapes, for which the float32 parts of transformers' models round differently."""
    tolerance = max(tolerance, 1e-6) if sequences is GROUPS else tolerance
    assert len(fused) == len(exact) == 2 * 2 * 7
    for one, other in zip(fused, exact, strict=True):
        assert float((one.double() - other).norm() / other.norm()) < tolerance


@pytest.mark.parametrize("sequences", [SEQUENCES, GROUPS], ids=["alone", "groups"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_distillation(kind: Divergence, dtype: torch.dtype, tolerance: float, sequences: Sequences) -> None:
    def plain(student: Tensor, base: Tensor, _: Tensor) -> Tensor:
        log_q, log_p = torch.log_softmax(base / TAU, -1), torch.log_softmax(student, -1)
        if kind == "forward_kl":
            return (log_q.exp() * (log_q - log_p)).sum()
        if kind == "reverse_kl":
            return (log_p.exp() * (log_p - log_q)).sum()
        log_m = ((log_q.exp() + log_p.exp()) / 2).log()
        return 0.5 * (log_q.exp() * (log_q - log_m)).sum() + 0.5 * (log_p.exp() * (log_p - log_m)).sum()

    def fused(policy: Policy, batch: TokenBatch) -> Tensor:
        with policy.as_teacher():
            teacher_TD = policy.hidden(batch)
        return chunked_divergence(policy.hidden(batch), policy.head_VD, tau=TAU, kind=kind, teacher_TD=teacher_TD)[
            0
        ].sum()

    assert_agree(sequences, fused_gradients(sequences, dtype, fused), plain_gradients(sequences, plain), tolerance)


@pytest.mark.parametrize("sequences", [SEQUENCES, GROUPS], ids=["alone", "groups"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_log_probabilities_and_entropy(dtype: torch.dtype, tolerance: float, sequences: Sequences) -> None:
    def plain(student: Tensor, _: Tensor, targets: Tensor) -> Tensor:
        log_p = torch.log_softmax(student, -1)
        return log_p.gather(-1, targets[:, None]).sum() - 0.3 * (log_p.exp() * log_p).sum()

    def fused(policy: Policy, batch: TokenBatch) -> Tensor:
        logprobs_T, entropy_T = chunked_logprobs(policy.hidden(batch), policy.head_VD, batch.targets_T)
        return logprobs_T.sum() + 0.3 * entropy_T.sum()

    assert_agree(sequences, fused_gradients(sequences, dtype, fused), plain_gradients(sequences, plain), tolerance)
