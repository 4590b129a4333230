"""Losses fused with the frozen LM head: full-vocabulary divergences and policy gradients without [T, V] logits.

Tokens are processed in chunks. For each chunk, the logits are computed from the hidden states, and the value and its
gradient with respect to the logits are computed in closed form. The gradient is multiplied back through the head at
once, and the chunk is discarded. The head is frozen under LoRA, so only the gradient with respect to the hidden states,
[T, D], is kept. Peak memory is O(chunk * V).

Axes: T tokens, D hidden size, V vocabulary. All values are in nats.
"""

import math
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from workers.free_memory import free_bytes

Divergence = Literal["forward_kl", "reverse_kl", "jsd"]

JSD_BETA = 0.5
CHUNK_ELEMENTS = {"cpu": 1 << 23, "cuda": 1 << 26}
"""Elements of one chunk of logits; 32 and 256 MB in float32. A GPU needs hundreds of tokens to be busy."""
CHUNK_SHARE = 64
"""A chunk takes at most one of so many parts of the free memory."""


def chunk_tokens(head_VD: Tensor) -> int:
    """Tokens per chunk of logits in float32."""
    elements = min(CHUNK_ELEMENTS[head_VD.device.type], free_bytes(head_VD.device) // (4 * CHUNK_SHARE))
    return max(1, elements // head_VD.shape[0])


def temper(logits_TV: Tensor, tau: float, min_p: float | None = None, *, out: Tensor | None = None) -> Tensor:
    """Log-probabilities of the teacher: the policy's own distribution at temperature `tau`.

    Args:
        logits_TV: The policy's logits or log-probabilities at temperature 1.
        min_p: If given, the teacher is tail-safe: it re-tempers only candidates with p >= min_p * max p, among
            themselves, so that their total mass stays the same. Every other token keeps its probability.
        out: The tensor that the result is written to; a new one by default.
    """
    if min_p is None:
        scaled_TV = torch.div(logits_TV, tau, out=out)
        return torch.log_softmax(scaled_TV, -1, out=out)
    logprobs_TV = torch.log_softmax(logits_TV, dim=-1)
    tail_TV = logprobs_TV < logprobs_TV.amax(-1, keepdim=True) + torch.tensor(min_p).log().to(logprobs_TV)
    log_mass_T1 = logprobs_TV.masked_fill(tail_TV, -torch.inf).logsumexp(-1, keepdim=True)
    candidates_TV = torch.log_softmax((logprobs_TV / tau).masked_fill(tail_TV, -torch.inf), dim=-1)
    return torch.where(tail_TV, logprobs_TV, candidates_TV + log_mass_T1, out=out)


def entropy(logprobs_TV: Tensor) -> Tensor:
    """The entropy of each row, [T]."""
    return -_row_dot(logprobs_TV.exp(), logprobs_TV)


def divergence_and_grad(
    teacher_TV: Tensor, student_TV: Tensor, p_TV: Tensor, kind: Divergence
) -> tuple[Tensor, Tensor]:
    """D(teacher, student) per row, [T], and its gradient with respect to the student's logits, [T, V].

    Teacher and student are given as log-probabilities, and `p_TV` holds the student's probabilities. All three are
    overwritten, because a chunk of logits is the largest tensor of a training step. With q the teacher, p the student,
    M = b q + (1 - b) p and b = 0.5:
        forward KL  sum q log(q/p)                             dD/dz = p - q
        reverse KL  sum p log(p/q)                             dD/dz = p (log(p/q) - D)
        JSD(b)      b KL(q||M) + (1 - b) KL(p||M)              dD/dz = (1 - b) p (log(p/M) - sum p log(p/M))
    """
    if kind == "forward_kl":
        log_ratio_TV = torch.sub(teacher_TV, student_TV, out=student_TV)
        q_TV = teacher_TV.exp_()
        return _row_dot(q_TV, log_ratio_TV), p_TV.sub_(q_TV)
    if kind == "reverse_kl":
        log_ratio_TV = student_TV.sub_(teacher_TV)
        value_T = _row_dot(p_TV, log_ratio_TV)
        return value_T, p_TV.mul_(log_ratio_TV.sub_(value_T[:, None]))
    log_beta, log_rest = math.log(JSD_BETA), math.log(1 - JSD_BETA)
    mixture_TV = torch.logaddexp(teacher_TV + log_beta, student_TV + log_rest)
    log_ratio_TV = student_TV.sub_(mixture_TV)
    student_T = _row_dot(p_TV, log_ratio_TV)
    teacher_ratio_TV = torch.sub(teacher_TV, mixture_TV, out=mixture_TV)
    teacher_T = _row_dot(teacher_TV.exp_(), teacher_ratio_TV)
    value_T = JSD_BETA * teacher_T + (1 - JSD_BETA) * student_T
    return value_T, p_TV.mul_(log_ratio_TV.sub_(student_T[:, None])).mul_(1 - JSD_BETA)


def chunked_divergence(
    student_TD: Tensor,
    head_VD: Tensor,
    *,
    tau: float,
    kind: Divergence,
    teacher_TD: Tensor | None = None,
    min_p: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Divergence between the tempered teacher and the student at every token.

    Args:
        student_TD: Hidden states of the student; the gradient flows only into these.
        teacher_TD: Hidden states of the teacher. None means the live teacher: the student itself, without gradient.

    Returns:
        Divergence [T] (differentiable), student entropy [T] and teacher entropy [T] (both without gradient).
    """
    return cast(
        tuple[Tensor, Tensor, Tensor],
        _ChunkedDivergence.apply(student_TD, head_VD, teacher_TD, tau, kind, min_p),
    )


class _ChunkedDivergence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        student_TD: Tensor,
        head_VD: Tensor,
        teacher_TD: Tensor | None,
        tau: float,
        kind: Divergence,
        min_p: float | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        values, student_entropies, teacher_entropies, grads = [], [], [], []
        head = _ChunkedHead(head_VD, student_TD.shape[0], buffers=3)
        for part in head.parts:
            student_cV, teacher_cV, scratch_cV = head.buffers(part)
            head.logits(student_TD[part], scratch_cV)
            torch.log_softmax(scratch_cV, -1, out=student_cV)
            logits_cV = student_cV if teacher_TD is None else head.logits(teacher_TD[part], scratch_cV)
            temper(logits_cV, tau, min_p, out=teacher_cV)
            teacher_entropies.append(-_row_dot(torch.exp(teacher_cV, out=scratch_cV), teacher_cV))
            p_cV = torch.exp(student_cV, out=scratch_cV)
            student_entropies.append(-_row_dot(p_cV, student_cV))
            value_c, grad_cV = divergence_and_grad(teacher_cV, student_cV, p_cV, kind)
            values.append(value_c)
            if ctx.needs_input_grad[0]:
                # A row's divergence depends only on that row's hidden state, so this is the whole Jacobian.
                grads.append(head.pull_back(grad_cV))
        if grads:
            ctx.save_for_backward(torch.cat(grads))
        outputs = torch.cat(values), torch.cat(student_entropies), torch.cat(teacher_entropies)
        ctx.mark_non_differentiable(*outputs[1:])
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_T: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (jacobian_TD,) = ctx.saved_tensors
        return _scaled(grad_T, jacobian_TD), None, None, None, None, None


def chunked_logprobs(
    hidden_TD: Tensor, head_VD: Tensor, targets_T: Tensor, *, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target token, and entropy of each distribution, under softmax(logits / temperature).

    Returns:
        Log-probabilities [T] and entropies [T], both differentiable with respect to `hidden_TD`.
    """
    return cast(tuple[Tensor, Tensor], _ChunkedLogprobs.apply(hidden_TD, head_VD, targets_T, temperature))


class _ChunkedLogprobs(torch.autograd.Function):
    """The gradients are d log p(x) / dz = onehot(x) - p and dH / dz = -p (log p + H), each over the temperature."""

    @staticmethod
    def forward(
        ctx: Any, hidden_TD: Tensor, head_VD: Tensor, targets_T: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        values, entropies, grads = [], [], []
        head = _ChunkedHead(head_VD, hidden_TD.shape[0], buffers=2)
        for part in head.parts:
            logprobs_cV, scratch_cV = head.buffers(part)
            logits_cV = head.logits(hidden_TD[part], scratch_cV)
            torch.log_softmax(logits_cV if temperature == 1.0 else logits_cV.div_(temperature), -1, out=logprobs_cV)
            values.append(logprobs_cV.gather(-1, targets_T[part, None]).squeeze(-1))
            p_cV = torch.exp(logprobs_cV, out=scratch_cV)
            entropies.append(-_row_dot(p_cV, logprobs_cV))
            if ctx.needs_input_grad[0]:
                grad_cV = p_cV.neg_()
                grad_cV.scatter_add_(-1, targets_T[part, None], torch.ones_like(values[-1])[:, None])
                grads.append(head.pull_back(grad_cV.div_(temperature)))
        if grads:
            ctx.save_for_backward(torch.cat(grads), hidden_TD, head_VD)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return torch.cat(values), torch.cat(entropies)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_T: Tensor | None, entropy_grad_T: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        jacobian_TD, hidden_TD, head_VD = ctx.saved_tensors
        grad_TD = torch.zeros_like(hidden_TD)
        if grad_T is not None:
            grad_TD = grad_TD + _scaled(grad_T, jacobian_TD)
        if entropy_grad_T is not None:
            grad_TD = grad_TD + _scaled(entropy_grad_T, _entropy_jacobian(hidden_TD, head_VD, ctx.temperature))
        return grad_TD, None, None, None


def _entropy_jacobian(hidden_TD: Tensor, head_VD: Tensor, temperature: float) -> Tensor:
    """The gradient dH/dh, [T, D]. It recomputes the logits, so that a run without entropy bonus never pays for it."""
    size = chunk_tokens(head_VD)
    parts = []
    for start in range(0, hidden_TD.shape[0], size):
        logprobs_cV = _logprobs(hidden_TD[start : start + size], head_VD, temperature)
        grad_cV = -logprobs_cV.exp() * (logprobs_cV + entropy(logprobs_cV)[:, None]) / temperature
        parts.append(grad_cV.to(head_VD.dtype) @ head_VD)
    return torch.cat(parts)


def logprobs_of_states(hidden_TD: Tensor, head_VD: Tensor, limit: int) -> Tensor:
    """Log-probabilities [at most `limit`, V] of evenly spaced states, for quantities that need several passes."""
    stride = max(1, -(-hidden_TD.shape[0] // limit))
    with torch.no_grad():
        return _logprobs(hidden_TD[::stride], head_VD)


class _ChunkedHead:
    """The frozen LM head, with memory for the logits of one chunk that all chunks share.

    If tensors of this size were allocated anew for every chunk, they would leave holes in the heap that add up to
    several times as much.
    """

    def __init__(self, head_VD: Tensor, tokens: int, *, buffers: int) -> None:
        vocabulary = head_VD.shape[0]
        size = min(tokens, chunk_tokens(head_VD))
        dtype = torch.promote_types(head_VD.dtype, torch.float32)
        self.parts = [slice(start, min(start + size, tokens)) for start in range(0, tokens, size)]
        self._head_VD = head_VD
        self._buffers = [head_VD.new_empty(size, vocabulary, dtype=dtype) for _ in range(buffers)]
        self._product = head_VD.new_empty(0 if dtype == head_VD.dtype else size, vocabulary)

    def buffers(self, part: slice) -> list[Tensor]:
        return [buffer[: part.stop - part.start] for buffer in self._buffers]

    def logits(self, hidden_cD: Tensor, out: Tensor) -> Tensor:
        """Writes h W^T, in float32 or wider, to `out`."""
        hidden_cD = hidden_cD.to(self._head_VD.dtype)
        if out.dtype == self._head_VD.dtype:
            return torch.mm(hidden_cD, self._head_VD.T, out=out)
        return out.copy_(torch.mm(hidden_cD, self._head_VD.T, out=self._product[: out.shape[0]]))

    def pull_back(self, grad_cV: Tensor) -> Tensor:
        """Gradient with respect to the hidden states, [c, D]."""
        if grad_cV.dtype != self._head_VD.dtype:
            grad_cV = self._product[: grad_cV.shape[0]].copy_(grad_cV)
        return grad_cV @ self._head_VD


def _logprobs(hidden_cD: Tensor, head_VD: Tensor, temperature: float = 1.0) -> Tensor:
    """Computes log softmax(h W^T / temperature) of one chunk, in float32 or wider."""
    logits_cV = hidden_cD.to(head_VD.dtype) @ head_VD.T
    logits_cV = logits_cV.to(torch.promote_types(logits_cV.dtype, torch.float32))
    return torch.log_softmax(logits_cV if temperature == 1.0 else logits_cV.div_(temperature), dim=-1)


def _row_dot(one_TV: Tensor, other_TV: Tensor) -> Tensor:
    """The dot product of each pair of rows, [T], computed without a tensor of the products."""
    return torch.bmm(one_TV[:, None, :], other_TV[:, :, None])[:, 0, 0]


def _scaled(grad_T: Tensor, jacobian_TD: Tensor) -> Tensor:
    return (grad_T[:, None] * jacobian_TD).to(jacobian_TD.dtype)
