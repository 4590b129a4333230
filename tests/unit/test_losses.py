"""The fused losses against plain autograd on the full distributions, in float64."""

import random

import pytest
import torch

from workers import losses
from workers.losses import Divergence, chunked_divergence, chunked_logprobs, temper

SHAPES = [(1, 3, 5), (7, 16, 33), (40, 8, 101)]
DRAW = random.Random(0)
RANDOM_SHAPES = [(DRAW.randint(1, 60), DRAW.randint(2, 48), DRAW.randint(3, 400)) for _ in range(6)]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks, the last one ragged."""
    monkeypatch.setitem(losses.CHUNK_ELEMENTS, "cpu", 512)


def random_case(shape: tuple[int, int, int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    tokens, width, vocabulary = shape
    generator = torch.Generator().manual_seed(seed)
    student = torch.randn(tokens, width, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(tokens, width, generator=generator, dtype=torch.float64)
    head = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64)
    return student, teacher, head


def assert_gradients_agree(fused: torch.Tensor, exact: torch.Tensor) -> None:
    """Relative to the largest entry of the exact gradient, which is computed in float64 by autograd."""
    tolerance = 1e-9 if fused.dtype == torch.float64 else 1e-4
    assert float((fused.double() - exact).abs().max() / exact.abs().max()) < tolerance


def plain_divergence(q: torch.Tensor, p: torch.Tensor, kind: Divergence) -> torch.Tensor:
    def kl(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a * (a.log() - b.log())).sum(-1)

    if kind == "forward_kl":
        return kl(q, p)
    if kind == "reverse_kl":
        return kl(p, q)
    return 0.5 * kl(q, (p + q) / 2) + 0.5 * kl(p, (p + q) / 2)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tau", [0.5, 1.7])
@pytest.mark.parametrize("min_p", [None, 0.2])
def test_divergence_and_gradient_match_autograd(
    kind: Divergence, shape: tuple[int, int, int], tau: float, min_p: float | None
) -> None:
    student, teacher, head = random_case(shape)
    weights = torch.rand(shape[0], dtype=torch.float64)
    value, student_entropy, teacher_entropy = chunked_divergence(
        student, head, tau=tau, kind=kind, teacher_TD=teacher, min_p=min_p
    )
    (gradient,) = torch.autograd.grad((value * weights).sum(), student)

    q = temper(torch.log_softmax(teacher @ head.T, -1), tau, min_p).exp()
    p = torch.softmax(student @ head.T, -1)
    expected = plain_divergence(q, p, kind)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), student)

    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    torch.testing.assert_close(student_entropy, -(p * p.log()).sum(-1))
    torch.testing.assert_close(teacher_entropy, -(q * q.log()).sum(-1))


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", RANDOM_SHAPES, ids=str)
@pytest.mark.parametrize("teacher", ["frozen", "live"])
def test_gradient_is_exact(kind: Divergence, dtype: torch.dtype, shape: tuple[int, int, int], teacher: str) -> None:
    student, teacher_TD, head = random_case(shape)
    tau = 0.5 + shape[0] / 25
    q = torch.softmax((student.detach() if teacher == "live" else teacher_TD) @ head.T / tau, -1)
    expected = plain_divergence(q, torch.softmax(student @ head.T, -1), kind)
    (exact,) = torch.autograd.grad(expected.sum(), student)

    rounded = student.detach().to(dtype).requires_grad_()
    frozen = None if teacher == "live" else teacher_TD.to(dtype)
    value, *_ = chunked_divergence(rounded, head.to(dtype), tau=tau, kind=kind, teacher_TD=frozen)
    (gradient,) = torch.autograd.grad(value.sum(), rounded)
    assert_gradients_agree(gradient, exact)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", RANDOM_SHAPES, ids=str)
def test_policy_gradient_is_exact(dtype: torch.dtype, shape: tuple[int, int, int]) -> None:
    hidden, _, head = random_case(shape)
    targets = torch.randint(0, shape[2], (shape[0],))
    weights = torch.randn(shape[0], dtype=torch.float64)
    full = torch.log_softmax(hidden @ head.T, -1)
    entropies = -(full.exp() * full).sum(-1)
    chosen = full.gather(-1, targets[:, None]).squeeze(-1)
    (exact,) = torch.autograd.grad((weights * chosen).sum() + 0.1 * entropies.sum(), hidden)

    rounded = hidden.detach().to(dtype).requires_grad_()
    logprobs_T, entropy_T = chunked_logprobs(rounded, head.to(dtype), targets)
    loss = (weights.to(dtype) * logprobs_T).sum() + 0.1 * entropy_T.sum()
    (gradient,) = torch.autograd.grad(loss, rounded)
    assert_gradients_agree(gradient, exact)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_live_teacher_is_the_student_without_gradient(kind: Divergence) -> None:
    student, _, head = random_case(SHAPES[1])
    live, *_ = chunked_divergence(student, head, tau=1.5, kind=kind)
    frozen, *_ = chunked_divergence(student, head, tau=1.5, kind=kind, teacher_TD=student.detach())
    torch.testing.assert_close(live, frozen)
    (live_gradient,) = torch.autograd.grad(live.sum(), student)
    (frozen_gradient,) = torch.autograd.grad(frozen.sum(), student)
    torch.testing.assert_close(live_gradient, frozen_gradient)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_entropy_and_gradients_match_autograd(shape: tuple[int, int, int], temperature: float) -> None:
    hidden, _, head = random_case(shape)
    targets = torch.randint(0, shape[2], (shape[0],))
    weights = torch.rand(shape[0], dtype=torch.float64)
    logprobs, entropies = chunked_logprobs(hidden, head, targets, temperature=temperature)
    (gradient,) = torch.autograd.grad((logprobs * weights + 0.3 * entropies).sum(), hidden)

    full = torch.log_softmax(hidden @ head.T / temperature, -1)
    expected = full.gather(-1, targets[:, None]).squeeze(-1)
    expected_entropies = -(full.exp() * full).sum(-1)
    (expected_gradient,) = torch.autograd.grad((expected * weights + 0.3 * expected_entropies).sum(), hidden)

    torch.testing.assert_close(logprobs, expected)
    torch.testing.assert_close(entropies, expected_entropies)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
def test_divergence_gradcheck(kind: Divergence) -> None:
    student, teacher, head = random_case((4, 3, 9))
    assert torch.autograd.gradcheck(
        lambda h: chunked_divergence(h, head, tau=1.3, kind=kind, teacher_TD=teacher)[0], student
    )


def test_logprobs_gradcheck() -> None:
    hidden, _, head = random_case((4, 3, 9))
    targets = torch.tensor([0, 3, 8, 2])
    assert torch.autograd.gradcheck(lambda h: chunked_logprobs(h, head, targets), hidden)


def test_bfloat16_hidden_states_give_float32_values() -> None:
    student, teacher, head = (x.detach().to(torch.bfloat16) for x in random_case((6, 16, 50)))
    student.requires_grad_()
    value, *_ = chunked_divergence(student, head, tau=1.5, kind="forward_kl", teacher_TD=teacher)
    value.sum().backward()
    assert value.dtype == torch.float32
    assert student.grad is not None and student.grad.dtype == torch.bfloat16


def test_tail_safe_teacher_keeps_the_tail_and_flattens_the_candidates() -> None:
    logprobs = torch.log_softmax(torch.tensor([[5.0, 4.0, 3.5, -3.0, -4.0]], dtype=torch.float64), -1)
    tempered = temper(logprobs, 2.0, min_p=0.1)
    torch.testing.assert_close(tempered[:, 3:], logprobs[:, 3:])
    torch.testing.assert_close(tempered.exp().sum(-1), torch.ones(1, dtype=torch.float64))
    gaps = tempered[0, 0] - tempered[0, 1]
    torch.testing.assert_close(gaps, torch.tensor(0.5, dtype=torch.float64))
    assert temper(logprobs, 2.0)[0, 4] > logprobs[0, 4]
