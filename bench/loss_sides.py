"""One side of `bench.distill`'s comparison of the loss alone: `python -m bench.loss_sides SIDE OPTIONS`.

The loss is forward KL from the teacher at `tau` to the student. It is computed in bfloat16 from hidden states and a
frozen LM head, with its gradient with respect to the student's hidden states.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bench.sides import peak_memory
from workers.losses import chunked_divergence

Loss = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def fused(student_TD: Tensor, teacher_TD: Tensor, head_VD: Tensor, tau: float) -> Tensor:
    return chunked_divergence(student_TD, head_VD, tau=tau, kind="forward_kl", teacher_TD=teacher_TD)[0].mean()


def naive(student_TD: Tensor, teacher_TD: Tensor, head_VD: Tensor, tau: float) -> Tensor:
    """The loss in its plain form: all logits at once, and autograd for the gradient."""
    with torch.no_grad():
        teacher_TV = functional.log_softmax((teacher_TD @ head_VD.T).float() / tau, -1)
    student_TV = functional.log_softmax((student_TD @ head_VD.T).float(), -1)
    return functional.kl_div(student_TV, teacher_TV, log_target=True, reduction="sum") / student_TD.shape[0]


def trl(student_TD: Tensor, teacher_TD: Tensor, head_VD: Tensor, tau: float) -> Tensor:
    """TRL's chunked divergence. It has one temperature for both sides, so the teacher's logits are scaled instead."""
    from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

    values: Any = ChunkedDivergenceFunction.apply(
        student_TD, head_VD, None, teacher_TD, head_VD, None, 0.0, 1.0, 1.0, None, 1.0 / tau, None
    )
    return values[0].mean()


def liger(student_TD: Tensor, teacher_TD: Tensor, head_VD: Tensor, tau: float) -> Tensor:
    """Liger's fused linear JSD at beta 0, only on CUDA; the teacher's temperature is part of its head."""
    from liger_kernel.ops import LigerFusedLinearJSDFunction  # pyright: ignore[reportMissingImports]

    return LigerFusedLinearJSDFunction.apply(
        student_TD, head_VD, teacher_TD, (head_VD / tau).to(head_VD.dtype), None, 0.0, -100, 1.0
    )


SIDES: dict[str, Loss] = {"fused": fused, "naive": naive, "trl": trl, "liger": liger}


def measure(loss: Loss, tokens: int, width: int, vocabulary: int, rounds: int) -> dict[str, Any]:
    """Measures the seconds of every round, forward and backward, the peak memory beyond the inputs, and the loss."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(device, torch.bfloat16)

    head_VD = random(vocabulary, width) * (2.0 / width**0.5)
    student_TD, noise_TD = random(tokens, width), random(tokens, width)
    teacher_TD = student_TD + 0.1 * noise_TD
    student_TD.requires_grad_()
    memory = peak_memory()
    seconds, value = [], 0.0
    for _ in range(rounds):
        start = time.perf_counter()
        result = loss(student_TD, teacher_TD, head_VD, 1.5)
        result.backward()
        value = result.item()  # waits for the device
        seconds.append(time.perf_counter() - start)
        student_TD.grad = None
    return {"seconds": seconds, "peak_mib": memory.mib(), "loss": value}


if __name__ == "__main__":
    print(json.dumps(measure(SIDES[sys.argv[1]], **json.loads(sys.argv[2]))))
