"""TS-OPSD with the frozen teacher and forward KL has an exact solution: the final norm divided by tau.

That divides all logits by tau. A student whose parameters can all be trained reaches it.
"""

import copy
from typing import Any, cast

import torch
from torch import Tensor

from tests.unit.workers_support import VOCABULARY, tiny_model
from workers.losses import chunked_divergence

TAU = 1.5


def sample(model: Any, count: int, generator: torch.Generator) -> Tensor:
    """Token ids [count, 16]: a random prompt of four tokens and what the model makes of it at temperature 1."""
    ids = torch.randint(0, VOCABULARY, (count, 4), generator=generator)
    with torch.no_grad():
        while ids.shape[1] < 16:
            probabilities = torch.softmax(model(input_ids=ids).logits[:, -1], -1)
            ids = torch.cat([ids, torch.multinomial(probabilities, 1, generator=generator)], -1)
    return ids


def kl_to_fold(student: Any, fold: Any, ids: Tensor) -> float:
    with torch.no_grad():
        log_q = torch.log_softmax(fold(input_ids=ids).logits, -1)
        log_p = torch.log_softmax(student(input_ids=ids).logits, -1)
    return float((log_q.exp() * (log_q - log_p)).sum(-1).mean())


def test_student_converges_to_the_exact_fold() -> None:
    student = cast(Any, tiny_model())
    teacher = copy.deepcopy(student)
    fold = copy.deepcopy(student)
    with torch.no_grad():
        fold.model.norm.weight.div_(TAU)
    head_VD = student.lm_head.weight.detach()
    generator = torch.Generator().manual_seed(0)
    held_out = sample(fold, 64, generator)
    assert kl_to_fold(student, fold, held_out) > 0.1

    steps, refresh_every, batch = 800, 4, 32
    optimizer = torch.optim.Adam(student.model.parameters(), betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    rollouts = held_out
    for step in range(steps):
        if step % refresh_every == 0:
            rollouts = sample(student, refresh_every * batch, generator)
        ids = rollouts.split(batch)[step % refresh_every]
        with torch.no_grad():
            teacher_TD = teacher.model(input_ids=ids).last_hidden_state.flatten(0, 1)
        student_TD = student.model(input_ids=ids).last_hidden_state.flatten(0, 1)
        chunked_divergence(student_TD, head_VD, tau=TAU, kind="forward_kl", teacher_TD=teacher_TD)[0].mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    assert kl_to_fold(student, fold, held_out) < 1e-3
