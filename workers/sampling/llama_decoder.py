"""Llama and Qwen3 for sampling: what transformers computes, in a third of the operations.

The time of a small policy goes into single operations. transformers takes about 60 of them for every layer and token,
and copies all keys and values for each. Here the LoRA is merged into the weights, all that has the same inputs is one
product, queries and keys are normalised and rotated together, and a new token is written behind the last one.

Axes: R rows, N new positions, L all positions, S rows and C positions that there is room for, D hidden size, H heads of
queries, K heads of keys, J = H + K heads that are rotated, V = K + K heads of keys and values, E size of a head,
O outputs, I inputs.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen3ForCausalLM

from workers.lora import can_merge, merge_into, product
from workers.packing import sees_whole_past

GROWTH = 1.5
"""Room is made for this many times the positions that are needed."""


class LlamaWeights:
    """The weights of a model with its active adapter merged: a copy of all but embedding and norms.

    The base does not change; `merge` has to be called before the first use and after every change of the adapter.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        body: Any = model.base_model
        config: Any = model.config
        self.embed, self.rotary, self.norm = body.embed_tokens, body.rotary_emb, _Norm(body.norm)
        self.layers = [_Layer.of(layer) for layer in body.layers]
        self.heads, self.key_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_size = config.head_dim

    def merge(self) -> None:
        """Takes over the adapter that is active now, as it is now."""
        with torch.no_grad():
            for layer in self.layers:
                for projection in (layer.attention_in, layer.attention_out, layer.mlp_in, layer.mlp_out):
                    projection.merge()

    @staticmethod
    def can_hold(model: PreTrainedModel) -> bool:
        """Whether it is one of the models that are computed here, and its adapters can be merged."""
        if type(model) not in (LlamaForCausalLM, Qwen3ForCausalLM) or not sees_whole_past(model):
            return False
        body: Any = model.base_model
        projections = [module for name, module in body.layers.named_modules() if name.endswith("_proj")]
        return model.config.hidden_act == "silu" and all(map(can_merge, projections))


class LlamaDecoder:
    """Decodes with these weights; see `workers.sampling.decoders.Decoder`."""

    def __init__(self, weights: LlamaWeights, most_rows: int) -> None:
        self._weights = weights
        self._memories = [_Memory(most_rows) for _ in weights.layers]

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
        before = self._memories[0].rows
        all_stay = torch.equal(rows_R[:before], torch.arange(before, device=rows_R.device))
        for memory in self._memories:
            if all_stay:
                memory.repeat(rows_R[before:])
            else:
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
        turned_RNJE = projected[:, :, : heads + keys]
        if layer.head_norm is not None:
            turned_RNJE = layer.head_norm(turned_RNJE)
        torch.addcmul(turned_RNJE * cos, turned_RNJE.roll(size // 2, -1), sin, out=projected[:, :, : heads + keys])
        queries_RNHE = projected[:, :, :heads]
        keys_RKLE, values_RKLE = memory.append(projected[:, :, heads:])
        if x_RND.shape[1] == 1:  # the heads of queries that share a head of keys are like positions to the attention
            queries_RKGE = queries_RNHE.reshape(-1, keys, heads // keys, size)
            mixed_RKGE = scaled_dot_product_attention(queries_RKGE, keys_RKLE, values_RKLE, seen)
            return layer.attention_out(mixed_RKGE.flatten(1)[:, None])
        queries_RHNE = queries_RNHE.transpose(1, 2)
        mixed_RHNE = scaled_dot_product_attention(queries_RHNE, keys_RKLE, values_RKLE, seen, enable_gqa=True)
        return layer.attention_out(mixed_RHNE.transpose(1, 2).flatten(2))


class _Memory:
    """Keys and values of a layer, with room for more rows and positions.

    Args:
        most_rows: The largest number of rows that there will be.
    """

    def __init__(self, most_rows: int) -> None:
        self.rows = self.length = 0
        self._most_rows = most_rows
        self._room_SCVE: Tensor | None = None

    def append(self, new_RNVE: Tensor) -> tuple[Tensor, Tensor]:
        """Adds positions to every row, and returns the keys and values of all positions, [R, K, L, E].

        Args:
            new_RNVE: The heads of keys, and behind them those of values.
        """
        self.rows, before, self.length = len(new_RNVE), self.length, self.length + new_RNVE.shape[1]
        old = self._room_SCVE
        if old is None or old.shape[1] < self.length:
            self._room_SCVE = new_RNVE.new_empty(self._most_rows, int(GROWTH * self.length), *new_RNVE.shape[2:])
            if old is not None:
                self._room_SCVE[: self.rows, :before] = old[: self.rows, :before]
        used_RLVE = self._used()
        used_RLVE[:, before:] = new_RNVE
        keys_RKLE, values_RKLE = used_RLVE.transpose(1, 2).chunk(2, 1)
        return keys_RKLE, values_RKLE

    def repeat(self, rows_A: Tensor) -> None:
        """Adds copies of these rows behind the last one."""
        before, self.rows = self.rows, self.rows + len(rows_A)
        used_RLVE = self._used()
        used_RLVE[before:] = used_RLVE[rows_A]

    def select(self, rows_R: Tensor) -> None:
        selected_RLVE = self._used()[rows_R]
        self.rows = len(rows_R)
        self._used()[:] = selected_RLVE

    def _used(self) -> Tensor:
        assert self._room_SCVE is not None
        return self._room_SCVE[: self.rows, : self.length]


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
        self._weight_OI = bases[0].weight.detach().new_empty(sum(outputs), bases[0].in_features)
        self._parts = list(zip(self._weight_OI.split(outputs), layers, strict=True))
        self._bias_O = None if bases[0].bias is None else torch.cat([base.bias for base in bases])

    def merge(self) -> None:
        for part_OI, layer in self._parts:
            merge_into(part_OI, layer)

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
