"""LoRA layers with a closed-form backward pass, in which nothing is cast or kept twice.

peft manages the adapters, their names and files; only the arithmetic of its linear layers is replaced. peft's own
forward pass casts every layer's input to float32 and keeps that copy for the backward pass. On a small model, that
takes as long as the model itself. Here, a layer keeps its input, which its neighbours share, and x A^T, [T, r].

    y = x W^T + b + s (x A^T) B^T
    dx = g W + s (g B) A        dA = s (g B)^T x        dB = s g^T (x A^T)

Axes: T tokens, I inputs, O outputs, R rank.
"""

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
        y_TO = nn.functional.linear(x_TI, weight_OI, bias_O).addmm_(down_TR, b.T, alpha=scale)
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
            grad_x = (grad_TO @ weight_OI).addmm_(grad_TR, a).view_as(x)
        grad_a = grad_b = None
        if ctx.needs_input_grad[3]:
            grad_a = (grad_TR.T @ x.reshape(-1, x.shape[-1])).to(ctx.lora_dtype)
            grad_b = (grad_TO.T @ down_TR).to(ctx.lora_dtype).mul_(ctx.scale)
        return grad_x, None, None, grad_a, grad_b, None


def use_fused_lora(peft: PeftModel) -> None:
    """Replaces the forward pass of every plain LoRA layer of `peft`: one without dropout, DoRA or another variant."""
    for module in peft.modules():
        if isinstance(module, PeftLoraLinear) and isinstance(module.base_layer, nn.Linear):
            module.forward = MethodType(_forward, module)


def _forward(self: PeftLoraLinear, x: Tensor) -> Tensor:
    base = cast(nn.Linear, self.base_layer)
    if self.disable_adapters:
        return nn.functional.linear(x, base.weight, base.bias)
    (adapter,) = self.active_adapters
    a, b = cast(nn.Linear, self.lora_A[adapter]), cast(nn.Linear, self.lora_B[adapter])
    return cast(Tensor, LoraProduct.apply(x, base.weight, base.bias, a.weight, b.weight, self.scaling[adapter]))
