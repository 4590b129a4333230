"""Advantages, the clipped surrogate and the KL term."""

import pytest
import torch

from workers.policy_gradient import clipped_surrogate, group_advantages, reference_kl


def test_group_advantages() -> None:
    assert group_advantages([1.0, 0.0, 0.0, 1.0], normalise_std=False) == [0.5, -0.5, -0.5, 0.5]
    assert group_advantages([1.0, 0.0, 0.0, 1.0], normalise_std=True) == [1.0, -1.0, -1.0, 1.0]
    assert group_advantages([1.0, 1.0, 1.0], normalise_std=True) is None


def test_surrogate_clips_asymmetrically_and_weights_by_importance() -> None:
    old = torch.zeros(4)
    logprobs = torch.tensor([0.5, -0.5, 0.5, -0.5], requires_grad=True)
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0])
    importance = torch.tensor([1.0, 1.0, 0.5, 1.0])
    loss, clipped = clipped_surrogate(logprobs, old, advantages, importance, clip_low=0.2, clip_high=0.28)
    loss.sum().backward()
    up, down = torch.tensor(0.5).exp(), torch.tensor(-0.5).exp()
    assert clipped.tolist() == [True, False, False, True]
    torch.testing.assert_close(loss.detach(), torch.stack([torch.tensor(-1.28), -down, 0.5 * up, torch.tensor(0.8)]))
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, torch.stack([0 * up, -down, 0.5 * up, 0 * up]))


def test_first_step_is_the_plain_policy_gradient() -> None:
    logprobs = torch.tensor([-1.0, -2.0], requires_grad=True)
    advantages = torch.tensor([1.0, -0.5])
    loss, _ = clipped_surrogate(logprobs, logprobs.detach(), advantages, torch.ones(2), clip_low=0.2, clip_high=0.28)
    loss.sum().backward()
    assert logprobs.grad is not None
    torch.testing.assert_close(logprobs.grad, -advantages)


@pytest.mark.parametrize("seed", range(3))
def test_reference_kl_has_the_value_and_the_gradient_of_the_divergence(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits, old_logits, reference_logits = torch.randn(3, 6, dtype=torch.double, generator=generator)
    logits.requires_grad_()
    logprobs, reference = logits.log_softmax(-1), reference_logits.log_softmax(-1)
    exact = (logprobs.exp() * (logprobs - reference)).sum()
    (exact_grad,) = torch.autograd.grad(exact, logits, retain_graph=True)
    # The expectation over tokens sampled from an older policy, summed exactly.
    old = old_logits.log_softmax(-1)
    estimate = (old.exp() * reference_kl(logprobs, old, reference)).sum()
    (grad,) = torch.autograd.grad(estimate, logits)
    torch.testing.assert_close(estimate, exact)
    torch.testing.assert_close(grad, exact_grad)
