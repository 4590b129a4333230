"""The shape of a policy, and the number of its weights, from the `config.json` of its folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from reheatd.errors import BadInputError

NORMED_HEADS = ("qwen3", "gemma3_text")
"""Types of models that normalise queries and keys of every head."""
NORMS_PER_LAYER = {"gemma3_text": 4}
"""Norms of a layer, where there are not two."""
BIASED_ATTENTION = ("qwen2",)
"""Types of models whose queries, keys and values have a bias without their configuration saying so."""
GATED_MLP = 3
"""Matrices of an MLP."""
UNGATED_MLP = 4
"""Width of the MLP over that of the hidden state in models that do not name it, such as GPT-2."""


@dataclass(frozen=True)
class PolicyShape:
    """Sizes of a dense decoder."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    """Whether the LM head is the embedding's weight."""
    norms: int
    """Norms of a layer that are as wide as the hidden state."""
    normed_heads: bool
    attention_bias: bool
    """Whether queries, keys and values have a bias."""
    positions: int | None = None
    """Tokens that the model was made for, prompt and completion together."""

    @classmethod
    def read(cls, config: dict[str, Any]) -> "PolicyShape":
        """The shape that the contents of a `config.json` describe.

        Raises:
            BadInputError: It lacks a size, so it is no dense decoder of the usual form.
        """
        return cls.of(SimpleNamespace(**config))

    @classmethod
    def of(cls, config: Any) -> "PolicyShape":
        """The shape that a configuration with attributes describes, such as one of Transformers.

        Raises:
            BadInputError: Like `read`.
        """
        kind = getattr(config, "model_type", "")
        try:
            heads, hidden = config.num_attention_heads, config.hidden_size
            layers, vocabulary = config.num_hidden_layers, config.vocab_size
        except AttributeError as error:
            raise BadInputError(
                f"the configuration of this {kind or 'model'} has no {error.name}, from which its memory follows"
            ) from error
        return cls(
            layers=layers,
            hidden=hidden,
            intermediate=getattr(config, "intermediate_size", None) or UNGATED_MLP * hidden,
            heads=heads,
            kv_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_dim=getattr(config, "head_dim", None) or hidden // heads,
            vocabulary=vocabulary,
            tied=getattr(config, "tie_word_embeddings", kind == "gemma3_text"),
            norms=NORMS_PER_LAYER.get(kind, 2),
            normed_heads=kind in NORMED_HEADS,
            attention_bias=bool(getattr(config, "attention_bias", False)) or kind in BIASED_ATTENTION,
            positions=getattr(config, "max_position_embeddings", None),
        )

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer."""
        attention = 2 * self.hidden * (self.query_width + self.kv_width)
        bias = self.query_width + 2 * self.kv_width if self.attention_bias else 0
        head_norms = 2 * self.head_dim if self.normed_heads else 0
        return attention + bias + GATED_MLP * self.hidden * self.intermediate + self.norms * self.hidden + head_norms

    @property
    def parameters(self) -> int:
        """All weights; a tied LM head counts once."""
        tables = (1 if self.tied else 2) * self.vocabulary * self.hidden
        return tables + self.layers * self.layer_parameters + self.hidden

    def lora_parameters(self, rank: int, targets: Sequence[str]) -> int:
        """Weights of a LoRA on these modules of every layer."""
        widths = {
            "q_proj": (self.hidden, self.query_width),
            "k_proj": (self.hidden, self.kv_width),
            "v_proj": (self.hidden, self.kv_width),
            "o_proj": (self.query_width, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }
        return self.layers * rank * sum(sum(widths[target]) for target in targets if target in widths)

    @property
    def kv_elements_per_token(self) -> int:
        """Numbers in the KV cache for one token; layers that attend to a window are counted like the others."""
        return 2 * self.layers * self.kv_width
