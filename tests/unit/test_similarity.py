"""Linear CKA on features whose similarity is known."""

import pytest
import torch

from workers.similarity import linear_cka

TOKENS, FEATURES = 400, 8


def features(seed: int, width: int = FEATURES) -> torch.Tensor:
    return torch.randn(TOKENS, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation() -> torch.Tensor:
    return torch.linalg.qr(features(9)[:FEATURES])[0]


def test_features_are_the_same_up_to_rotation_shift_and_scale() -> None:
    one = features(0)
    assert linear_cka(one, one) == pytest.approx(1, abs=1e-12)
    assert linear_cka(one, one @ rotation()) == pytest.approx(1, abs=1e-12)
    assert linear_cka(one, -3 * one + 7) == pytest.approx(1, abs=1e-12)


def test_a_scale_of_single_features_is_a_difference() -> None:
    one = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    # K and L have eigenvalues (2, 2) and (2 * 9, 2) on the same vectors: (36 + 4) / (sqrt(8) * sqrt(328)).
    assert linear_cka(one, one * torch.tensor([3.0, 1.0])) == pytest.approx(40 / (8 * 328) ** 0.5)


def test_unrelated_features_are_not_similar() -> None:
    assert linear_cka(features(0), features(1)) < 0.1
    assert linear_cka(torch.tensor([[1.0], [-1.0], [0.0], [0.0]]), torch.tensor([[0.0], [0.0], [1.0], [-1.0]])) == 0


def test_the_number_of_features_may_differ() -> None:
    one = features(0)
    assert linear_cka(one, torch.cat([one, one], 1)) == pytest.approx(1, abs=1e-12)


def test_it_is_the_definition_by_features() -> None:
    one, other = features(0), features(0) + features(1, FEATURES)
    x, y = one - one.mean(0), other - other.mean(0)
    expected = (y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm())
    assert linear_cka(one, other) == pytest.approx(float(expected), rel=1e-12)
    assert 0.3 < float(expected) < 0.8


def test_features_that_never_vary() -> None:
    constant = torch.ones(4, 2)
    assert linear_cka(constant, constant) == 1
    assert linear_cka(constant, torch.eye(4)) == 0


def test_a_small_change_in_bfloat16_is_told_apart() -> None:
    one = features(0)
    near, far = linear_cka(one, one + 1e-3 * features(1)), linear_cka(one, one + 1e-2 * features(1))
    assert 1 - near == pytest.approx(1e-6, rel=0.3) and 1 - far == pytest.approx(1e-4, rel=0.3)
    assert linear_cka(one.bfloat16(), one.bfloat16()) == pytest.approx(1, abs=1e-12)
