"""The entropy of logits rows, as the engine's tap computes it on the CPU and on accelerators."""

import math

import pytest
import torch

from reheatd.tap.row_entropy import CPU_ROWS_PER_THREAD, RowEntropies, by_entr


@pytest.mark.parametrize("rows", [1, 2, 2 * CPU_ROWS_PER_THREAD * torch.get_num_threads() + 1])
def test_both_ways_agree_with_double_precision(rows: int) -> None:
    torch.manual_seed(rows)
    logits_BV = torch.randn(rows, 5000) * torch.linspace(0.1, 8, rows)[:, None] + 30
    logits_BV[::3, ::3] = -torch.inf  # ruled out by a grammar
    logp_BV = logits_BV.double().log_softmax(dim=-1)
    exact_B = -torch.where(logp_BV > -torch.inf, logp_BV.exp() * logp_BV, 0).sum(dim=-1)
    for found_B in (RowEntropies()(logits_BV), by_entr(logits_BV)):
        torch.testing.assert_close(found_B.double(), exact_B, rtol=0, atol=1e-4)


def test_one_choice_has_no_entropy_and_equal_ones_have_all() -> None:
    logits_BV = torch.tensor([[5.0, -torch.inf, -torch.inf, -torch.inf], [2.0, 2.0, 2.0, 2.0]])
    for found_B in (RowEntropies()(logits_BV), by_entr(logits_BV)):
        assert found_B.tolist() == pytest.approx([0.0, math.log(4)], abs=1e-6)
