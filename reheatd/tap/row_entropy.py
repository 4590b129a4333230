"""The exact entropy of every row of a step's logits, at the least cost to the step."""

import torch

ROWS_AT_ONCE = 32
"""Rows computed at once on an accelerator, which limits the memory of a step's probabilities."""
CPU_ROWS_PER_THREAD = 4
"""Rows computed at once on a CPU. With fewer, starting the kernels takes longer; with more, a row has left the cache
when it is read again."""


class RowEntropies:
    """Computes the entropy of softmax(logits) of each row, in nats."""

    def __init__(self) -> None:
        self._scratch_RV = torch.empty(0, 0)

    def __call__(self, logits_BV: torch.Tensor) -> torch.Tensor:
        """The entropies (B), on the device of the logits; this does not wait for an accelerator.

        Args:
            logits_BV: Logits in fp32; a token that a grammar rules out is at -inf.
        """
        if logits_BV.device.type == "cpu":
            return self._on_cpu(logits_BV)
        return torch.cat([by_entr(rows_RV) for rows_RV in logits_BV.split(ROWS_AT_ONCE)])

    def _on_cpu(self, logits_BV: torch.Tensor) -> torch.Tensor:
        """Computes H = log sum exp(z) - sum softmax(z) z, for a few rows per thread at a time.

        That way, a row is read again from the thread's own cache, and few calls are made.
        """
        rows_at_once = CPU_ROWS_PER_THREAD * torch.get_num_threads()
        if self._scratch_RV.shape != (rows_at_once, logits_BV.shape[1]):
            self._scratch_RV = torch.empty(rows_at_once, logits_BV.shape[1])
        top_B, top_p_B, mean_B = torch.empty(3, logits_BV.shape[0])
        for rows_RV, top_R, top_p_R, mean_R in zip(
            *(tensor.split(rows_at_once) for tensor in (logits_BV, top_B, top_p_B, mean_B)), strict=True
        ):
            p_RV = self._scratch_RV[: rows_RV.shape[0]]
            torch.softmax(rows_RV, dim=-1, out=p_RV)
            torch.amax(rows_RV, dim=-1, out=top_R)
            torch.amax(p_RV, dim=-1, out=top_p_R)
            torch.sum(p_RV.mul_(rows_RV), dim=-1, out=mean_R)
        entropies_B = top_B - top_p_B.log() - mean_B  # log sum exp(z) = max z - log max p
        masked_B = ~torch.isfinite(entropies_B)  # rows with 0 * -inf
        if bool(masked_B.any()):
            entropies_B[masked_B] = by_entr(logits_BV[masked_B])
        return entropies_B


def by_entr(logits_RV: torch.Tensor) -> torch.Tensor:
    """Computes H = -sum p log p in few kernels, because starting kernels takes most of the time; a p of 0 counts 0."""
    return torch.special.entr(logits_RV.softmax(dim=-1)).sum(dim=-1)
