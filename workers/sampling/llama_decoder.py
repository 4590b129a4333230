"""Llama and Qwen3 for sampling: what transformers computes, in a third of the operations.

The time of a small policy goes into single operations. transformers takes about 60 of them for every layer and token,
and copies all keys and values for each. Here the LoRA is merged into the weights, all that has the same inputs is one
product, queries and keys are normalised and rotated together, and a new token is written behind the last one.

Axes: R rows, N new positions, L all positions, C positions that there is room for, D hidden size, H heads of queries,
K heads of keys, J = H + K heads that are rotated, E size of a head, O outputs, I inputs.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen3ForCausalLM

from workers.lora import can_merge, merge_into, product
from workers.shared_prompts import can_share

GROWTH = 1.5
"""Room is made for this many times the positions that are needed."""


class LlamaWeights:
    """The weights of a model with its active adapter merged, as they are now: a copy of all but embedding and norms."""

    def __init__(self, model: PreTrainedModel) -> None:
        body: Any = model.base_model
        config: Any = model.config
        self.embed, self.rotary, self.norm = body.embed_tokens, body.rotary_emb, _Norm(body.norm)
        self.layers = [_Layer.of(layer) for layer in body.layers]
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_size = config.head_dim

    @staticmethod
    def can_hold(model: PreTrainedModel) -> bool:
        """Whether it is one of the models that are computed here, and its adapters can be merged."""
        if type(model) not in (LlamaForCausalLM, Qwen3ForCausalLM) or not can_share(model):
            return False
        body: Any = model.base_model
        projections = [module for name, module in body.layers.named_modules() if name.endswith("_proj")]
        return model.config.hidden_act == "silu" and all(map(can_merge, projections))


class LlamaDecoder:
    """Decodes with these weights; see `workers.sampling.decoders.Decoder`."""

    def __init__(self, weights: LlamaWeights) -> None:
        self._weights = weights
        self._memories = [_Memory() for _ in weights.layers]

    def decode(self, ids_RN: Tensor, positions_RN: Tensor, mask_RL: Tensor | None) -> Tensor:
        weights = self._weights
        x_RND = weights.embed(ids_RN)
        cos_RNE, sin_RNE = weights.rotary(x_RND, positions_RN)
        first_RNe, second_RNe = sin_RNE.chunk(2, -1)
        sin_RNE = torch.cat([-first_RNe, second_RNe], -1)  # a head's halves are swapped, and one of them negated
        seen_R1NL = self._seen(ids_RN, mask_RL)
        for layer, memory in zip(weights.layers, self._memories, strict=True):
            x_RND = x_RND + self._attend(layer, memory, x_RND, cos_RNE[:, :, None], sin_RNE[:, :, None], seen_R1NL)
            gate_RNO, up_RNO = layer.mlp_in(layer.mlp_norm(x_RND)).chunk(2, -1)
            x_RND = x_RND + layer.mlp_out(silu(gate_RNO).mul_(up_RNO))
        return weights.norm(x_RND[:, -1])

    def select(self, rows_R: Tensor) -> None:
        for memory in self._memories:
            memory.select(rows_R)

    def _seen(self, ids_RN: Tensor, mask_RL: Tensor | None) -> Tensor | None:
        """Which positions each new one attends to; None if to all."""
        before, new = self._memories[0].length, ids_RN.shape[1]
        seen = None if mask_RL is None else mask_RL[:, None, None].bool()
        if new > 1:
            causal = torch.ones(new, before + new, dtype=torch.bool, device=ids_RN.device).tril(before)
            seen = causal if seen is None else seen & causal
        return seen

    def _attend(
        self, layer: "_Layer", memory: "_Memory", x_RND: Tensor, cos: Tensor, sin: Tensor, seen: Tensor | None
    ) -> Tensor:
        heads, keys, size = self._weights.heads, self._weights.key_heads, self._weights.head_size
        projected = layer.attention_in(layer.attention_norm(x_RND)).unflatten(-1, (-1, size))
        turned_RNJE, values_RNKE = projected.split([heads + keys, keys], 2)
        if layer.head_norm is not None:
            turned_RNJE = layer.head_norm(turned_RNJE)
        turned_RNJE = torch.addcmul(turned_RNJE * cos, turned_RNJE.roll(size // 2, -1), sin)
        queries_RNHE, keys_RNKE = turned_RNJE.split([heads, keys], 2)
        keys_RKLE, values_RKLE = memory.append(keys_RNKE, values_RNKE)
        if x_RND.shape[1] == 1:  # the heads of queries that share a head of keys are like positions to the attention
            queries_RKGE = queries_RNHE.reshape(-1, keys, heads // keys, size)
            mixed_RKGE = scaled_dot_product_attention(queries_RKGE, keys_RKLE, values_RKLE, seen)
            return layer.attention_out(mixed_RKGE.flatten(1)[:, None])
        queries_RHNE = queries_RNHE.transpose(1, 2)
        mixed_RHNE = scaled_dot_product_attention(queries_RHNE, keys_RKLE, values_RKLE, seen, enable_gqa=True)
        return layer.attention_out(mixed_RHNE.transpose(1, 2).flatten(2))


class _Memory:
    """Keys and values of a layer, with room for more. Positions come first, so that each is written as a whole."""

    def __init__(self) -> None:
        self.length = 0
        self._room_C2RKE: Tensor | None = None

    def append(self, keys_RNKE: Tensor, values_RNKE: Tensor) -> tuple[Tensor, Tensor]:
        """Adds new positions, and returns the keys and values of all, [R, K, L, E]."""
        before, self.length = self.length, self.length + keys_RNKE.shape[1]
        old = self._room_C2RKE
        if old is None or len(old) < self.length:
            rows, _, heads, size = keys_RNKE.shape
            self._room_C2RKE = keys_RNKE.new_empty(int(GROWTH * self.length), 2, rows, heads, size)
            if old is not None:
                self._room_C2RKE[:before] = old[:before]
        assert self._room_C2RKE is not None
        self._room_C2RKE[before : self.length, 0] = keys_RNKE.transpose(0, 1)
        self._room_C2RKE[before : self.length, 1] = values_RNKE.transpose(0, 1)
        keys_RKLE, values_RKLE = self._room_C2RKE[: self.length].permute(1, 2, 3, 0, 4)
        return keys_RKLE, values_RKLE

    def select(self, rows_R: Tensor) -> None:
        assert self._room_C2RKE is not None
        used = self._room_C2RKE[: self.length]
        self._room_C2RKE = used.new_empty(int(GROWTH * self.length) + 1, 2, len(rows_R), *used.shape[3:])
        torch.index_select(used, 2, rows_R, out=self._room_C2RKE[: self.length])


class _Norm:
    """The root-mean-square norm of a module of transformers, or of several that apply to one head each."""

    def __init__(self, module: Any, weight: Tensor | None = None) -> None:
        self._weight = module.weight if weight is None else weight
        self._eps = module.variance_epsilon

    def __call__(self, x: Tensor) -> Tensor:
        if self._weight.dim() == 1:
            return rms_norm(x, x.shape[-1:], self._weight, self._eps)
        return rms_norm(x, x.shape[-1:], eps=self._eps).mul_(self._weight)


class _Projection:
    """The product of several linear layers that have the same inputs."""

    def __init__(self, *layers: nn.Module) -> None:
        bases: list[Any] = [getattr(layer, "base_layer", layer) for layer in layers]
        outputs = [base.out_features for base in bases]
        self._weight_OI = bases[0].weight.new_empty(sum(outputs), bases[0].in_features)
        for layer, part_OI in zip(layers, self._weight_OI.split(outputs), strict=True):
            merge_into(part_OI, layer)
        self._bias_O = None if bases[0].bias is None else torch.cat([base.bias for base in bases])

    def __call__(self, x: Tensor) -> Tensor:
        return product(x, self._weight_OI, self._bias_O)


@dataclass(frozen=True)
class _Layer:
    attention_norm: _Norm
    attention_in: _Projection
    head_norm: _Norm | None
    """The norm of queries and keys; Llama has none."""
    attention_out: _Projection
    mlp_norm: _Norm
    mlp_in: _Projection
    mlp_out: _Projection

    @classmethod
    def of(cls, layer: Any) -> "_Layer":
        attention, mlp = layer.self_attn, layer.mlp
        head_norm = None
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm, attention.k_norm
            heads, keys = attention.config.num_attention_heads, attention.config.num_key_value_heads
            head_norm = _Norm(query, torch.cat([query.weight.expand(heads, -1), key.weight.expand(keys, -1)]))
        return cls(
            attention_norm=_Norm(layer.input_layernorm),
            attention_in=_Projection(attention.q_proj, attention.k_proj, attention.v_proj),
            head_norm=head_norm,
            attention_out=_Projection(attention.o_proj),
            mlp_norm=_Norm(layer.post_attention_layernorm),
            mlp_in=_Projection(mlp.gate_proj, mlp.up_proj),
            mlp_out=_Projection(mlp.down_proj),
        )
