"""Linear CKA: how similar two sets of features of the same tokens are (arXiv 1905.00414, section 3)."""

import torch
from torch import Tensor


def linear_cka(one_TD: Tensor, other_TD: Tensor) -> float:
    """Linear centred kernel alignment of two representations of the same T tokens, between 0 and 1.

        CKA = <K, L> / (||K|| ||L||),  K = X X^T,  L = Y Y^T,  columns of X and Y centred

    It is 1 if the features are the same up to rotation, shift and one common scale. It is biased upwards where T is
    small beside the number of features, so compare values only at equal T. Representations that are both the same for
    every token count as equal, and one that is constant beside one that is not as unrelated.

    Args:
        one_TD: Features of every token; the number of features may differ from that of `other_TD`.
    """
    one_TT, other_TT = _gram(one_TD), _gram(other_TD)
    norms = (one_TT.norm(), other_TT.norm())
    if norms[0] == 0 or norms[1] == 0:
        return float(norms[0] == norms[1])
    return min(1.0, float((one_TT * other_TT).sum() / (norms[0] * norms[1])))


def _gram(features_TD: Tensor) -> Tensor:
    """Products of the centred features of each pair of tokens, float64: values near 1 must be told apart."""
    centred_TD = features_TD.to(torch.float64)
    centred_TD = centred_TD - centred_TD.mean(0)
    return centred_TD @ centred_TD.T
