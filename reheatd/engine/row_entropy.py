"""The exact entropy of every row of a step's logits, at the least cost to the step."""

import torch

ROWS_AT_ONCE = 32
"""On an accelerator: bounds the memory of a step's probabilities."""


class RowEntropies:
    """Computes the entropy of softmax(logits) of each row, nats."""

    def __init__(self) -> None:
        self._scratch_RV = torch.empty(0, 0)

    def __call__(self, logits_BV: torch.Tensor) -> torch.Tensor:
        """Entropies (B) where the logits are; nothing waits for an accelerator.

        Args:
            logits_BV: fp32; a token that a grammar rules out is at -inf.
        """
        if logits_BV.device.type == "cpu":
            return self._on_cpu(logits_BV)
        return torch.cat([by_entr(rows_RV) for rows_RV in logits_BV.split(ROWS_AT_ONCE)])

    def _on_cpu(self, logits_BV: torch.Tensor) -> torch.Tensor:
        """H = log sum exp(z) - sum softmax(z) z, one row for each thread at a time.

        So a row is read again from the thread's own cache. All rows at once push the model's weights out, and the
        next step pays.
        """
        if self._scratch_RV.shape[1] != logits_BV.shape[1]:
            self._scratch_RV = torch.empty(torch.get_num_threads(), logits_BV.shape[1])
        entropies_B = torch.empty(logits_BV.shape[0])
        for start in range(0, logits_BV.shape[0], self._scratch_RV.shape[0]):
            rows_RV = logits_BV[start : start + self._scratch_RV.shape[0]]
            p_RV = self._scratch_RV[: rows_RV.shape[0]]
            torch.softmax(rows_RV, dim=-1, out=p_RV)
            # log sum exp(z) = max z - log max p
            lse_R = rows_RV.amax(dim=-1) - p_RV.amax(dim=-1).log()
            mean_R = torch.linalg.vecdot(p_RV, rows_RV)
            if not bool(torch.isfinite(mean_R).all()):  # 0 * -inf
                mean_R = torch.where(p_RV > 0, p_RV * rows_RV, 0.0).sum(dim=-1)
            entropies_B[start : start + rows_RV.shape[0]] = lse_R - mean_R
        return entropies_B


def by_entr(logits_RV: torch.Tensor) -> torch.Tensor:
    """H = -sum p log p in few kernels, where the time goes into starting them; a p of 0 counts 0."""
    return torch.special.entr(logits_RV.softmax(dim=-1)).sum(dim=-1)
