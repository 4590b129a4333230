"""LoRA layers with a closed-form backward pass, in which nothing is cast or kept twice.

peft manages the adapters, their names and files; only the arithmetic of its linear layers is replaced. peft's own
forward pass casts every layer's input to float32 and keeps that copy for the backward pass. On a small model, that
takes as long as the model itself. Here, a layer keeps its input, which its neighbours share, and x A^T, [T, r].

    y = x W^T + b + s (x A^T) B^T
    dx = g W + s (g B) A        dA = s (g B)^T x        dB = s g^T (x A^T)

Sampling needs no gradient, and there W + s B A can be one weight; see `merged_lora`.

Axes: T tokens, I inputs, O outputs, R rank.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, cast

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as PeftLoraLinear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class LoraProduct(torch.autograd.Function):
    """The product y above. W and b are frozen; A, B and their gradients may have a wider number format than x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, a_RI: Tensor, b_OR: Tensor, scale: float
    ) -> Tensor:
        x_TI = x.reshape(-1, x.shape[-1])
        a, b = a_RI.to(x.dtype), b_OR.to(x.dtype)
        down_TR = x_TI @ a.T
        y_TO = product(x_TI, weight_OI, bias_O).addmm_(down_TR, b.T, alpha=scale)
        ctx.save_for_backward(x, weight_OI, a, b, down_TR)
        ctx.scale, ctx.lora_dtype = scale, a_RI.dtype
        return y_TO.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight_OI, a, b, down_TR = ctx.saved_tensors
        grad_TO = grad.reshape(-1, grad.shape[-1])
        grad_TR = (grad_TO @ b).mul_(ctx.scale)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = product(grad_TO, weight_OI.T, None).addmm_(grad_TR, a).view_as(x)
        grad_a = grad_b = None
        if ctx.needs_input_grad[3]:
            grad_a = (grad_TR.T @ x.reshape(-1, x.shape[-1])).to(ctx.lora_dtype)
            grad_b = (grad_TO.T @ down_TR).to(ctx.lora_dtype).mul_(ctx.scale)
        return grad_x, None, None, grad_a, grad_b, None


def use_fused_lora(peft: PeftModel) -> list[PeftLoraLinear]:
    """Replaces the forward pass of every plain LoRA layer of `peft`: one without dropout, DoRA or another variant.

    Returns:
        These layers.
    """
    layers = [module for module in peft.modules() if isinstance(module, PeftLoraLinear)]
    layers = [layer for layer in layers if isinstance(layer.base_layer, nn.Linear)]
    for layer in layers:
        layer.forward = MethodType(_forward, layer)
    return layers


@contextmanager
def merged_lora(layers: Iterable[PeftLoraLinear]) -> Iterator[None]:
    """Inside the context, fused layers multiply by W + s B A at once, with the adapter that was active before it.

    No gradient is recorded. W itself is never written to, so nothing is subtracted afterwards and nothing is rounded
    away. The merged weights are a second copy of all weights that have a LoRA; they live as long as the context. Only
    weights of 32 bits and more are merged. In a narrower format, which large models have, rounding W + s B A would lose
    small updates, and the copy would be large.

    Optimiser steps inside the context do not reach the merged weights. Another adapter that becomes active inside the
    context is used, but not merged.
    """
    merged = [layer for layer in layers if not layer.disable_adapters and can_merge(layer)]
    try:
        with torch.no_grad():
            for layer in merged:
                layer.forward = _merged_forward(layer)
            yield
    finally:
        for layer in merged:
            layer.forward = MethodType(_forward, layer)


def _forward(self: PeftLoraLinear, x: Tensor) -> Tensor:
    base = cast(nn.Linear, self.base_layer)
    if self.disable_adapters:
        return nn.functional.linear(x, base.weight, base.bias)
    (adapter,) = self.active_adapters
    a, b = cast(nn.Linear, self.lora_A[adapter]), cast(nn.Linear, self.lora_B[adapter])
    return cast(Tensor, LoraProduct.apply(x, base.weight, base.bias, a.weight, b.weight, self.scaling[adapter]))


def can_merge(layer: nn.Module) -> bool:
    """Whether a linear layer, with or without LoRA, can have W + s B A as one weight that keeps small updates."""
    base = layer.base_layer if isinstance(layer, PeftLoraLinear) else layer
    return isinstance(base, nn.Linear) and base.weight.itemsize >= 4


def merge_into(out_OI: Tensor, layer: nn.Module) -> None:
    """Writes the weight by which a linear layer, with or without LoRA, multiplies at present: W + s B A, or W."""
    if not isinstance(layer, PeftLoraLinear) or layer.disable_adapters:
        out_OI.copy_(cast(nn.Linear, getattr(layer, "base_layer", layer)).weight)
        return
    weight_OI = cast(nn.Linear, layer.base_layer).weight
    (adapter,) = layer.active_adapters
    a, b = cast(nn.Linear, layer.lora_A[adapter]), cast(nn.Linear, layer.lora_B[adapter])
    b_OR, a_RI = b.weight.to(weight_OI.dtype), a.weight.to(weight_OI.dtype)
    torch.addmm(weight_OI, b_OR, a_RI, alpha=layer.scaling[adapter], out=out_OI)


def product(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
    """x W^T + b, for which autograd records nothing.

    For float32 on a CPU this is oneDNN's product. torch takes MKL's, which does not use AVX-512 on AMD's processors.
    """
    if weight_OI.device.type == "cpu" and weight_OI.dtype == torch.float32 and torch.backends.mkldnn.is_available():
        return torch.ops.mkldnn._linear_pointwise.default(x, weight_OI, bias_O, "none", [], "")
    return nn.functional.linear(x, weight_OI, bias_O)


def _merged_forward(layer: PeftLoraLinear) -> Callable[..., Tensor]:
    (adapter,) = layer.active_adapters
    base = cast(nn.Linear, layer.base_layer)
    merged_OI = torch.empty_like(base.weight)
    merge_into(merged_OI, layer)

    def forward(x: Tensor) -> Tensor:
        if layer.disable_adapters or layer.active_adapters != [adapter]:
            return _forward(layer, x)
        return product(x, merged_OI, base.bias)

    return forward
