"""The policy in the trainer: one frozen base model with a LoRA student in training and a frozen LoRA teacher.

The base model is in memory once. The student starts as the parent version's adapter. The teacher is that same adapter
and never changes; for version 0, the teacher is the base model itself.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, Cache, PreTrainedModel, PreTrainedTokenizerBase

from reheatd.engine.number_format import cpu_format
from reheatd.engine.supported import unsupported
from reheatd.errors import BadInputError
from reheatd.files import publish_folder
from reheatd.options import Checkpointing, LoraOptions, NumberFormat
from reheatd.plan.memory import ActivationCost
from reheatd.plan.shape import PolicyShape
from workers.gradient_checkpointing import CheckpointedLayers
from workers.lora import merged_lora, use_fused_lora
from workers.losses import chunked_logprobs
from workers.packing import Pack, can_pack, use_packed_attention
from workers.shared_prompts import Sequences, by_prompt, computed_positions
from workers.training_memory import TrainingMemory

Weights = list[Tensor]
"""A student's LoRA weights, in the order of `Policy.parameters`."""
STUDENT = "student"
TEACHER = "teacher"

FORBIDDEN_TARGETS = ("lm_head", "embed_tokens", "wte", "embed_out", "embed_in")
"""Modules that must not get a LoRA: the losses rely on a frozen head, and the engine takes no adapters for these."""


@dataclass(frozen=True)
class TokenBatch:
    """Prompts with completions: B sequences with T completion tokens in all."""

    sequences: Sequences
    rows_T: Tensor
    """The sequence that each completion token belongs to."""
    targets_T: Tensor
    """The completion tokens."""

    @classmethod
    def build(cls, sequences: Sequences, device: torch.device) -> "TokenBatch":
        """Builds a batch from pairs of prompt ids and completion ids. Neither may be empty."""
        rows = [row for row, (_, completion) in enumerate(sequences) for _ in completion]
        targets = [token for _, completion in sequences for token in completion]
        return cls(sequences, torch.tensor(rows, device=device), torch.tensor(targets, device=device))

    @cached_property
    def pack(self) -> Pack:
        """The sequences without their last tokens, which predict nothing, in one row."""
        return Pack.build(self.sequences, self.targets_T.device)

    @cached_property
    def padded(self) -> tuple[Tensor, Tensor]:
        """The same with padding on the right, [B, L], and the position that predicts each completion token, [T]."""
        length = max(len(prompt) + len(completion) for prompt, completion in self.sequences) - 1
        rows = [prompt + completion[:-1] for prompt, completion in self.sequences]
        ids_BL = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])
        positions = [len(prompt) - 1 + i for prompt, completion in self.sequences for i in range(len(completion))]
        device = self.targets_T.device
        return ids_BL.to(device), torch.tensor(positions, device=device)


def micro_batches(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices grouped by similar length, so that no group holds more than `max_tokens` padded tokens.

    A sequence longer than `max_tokens` gets a group of its own.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= max_tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


class Policy:
    """A base model with a trainable student adapter. Build one with `Policy.load`."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        peft: PeftModel,
        checkpointing: Checkpointing,
        *,
        has_teacher: bool,
    ) -> None:
        self.tokenizer = tokenizer
        self.device = model.device
        self._model = model
        self._peft = peft
        self._has_teacher = has_teacher
        self.head_VD = _plain_head(model)
        self._lora_layers = use_fused_lora(peft)
        self._can_pack = can_pack(model)
        if self._can_pack:
            use_packed_attention(model)
        self._layers = CheckpointedLayers(model)
        cost = ActivationCost.of(PolicyShape.of(model.config.get_text_config()), model.dtype.itemsize)
        self.memory = TrainingMemory(cost, self.head_VD.shape[1], self.device, checkpointing)
        peft.eval()  # the adapters have no dropout; nothing else here differs between training and evaluation

    @classmethod
    def load(
        cls,
        model_path: Path,
        lora: LoraOptions,
        parent_adapter: Path | None = None,
        *,
        dtype: NumberFormat = "auto",
        checkpointing: Checkpointing = "auto",
        device: str | None = None,
        seed: int = 0,
    ) -> "Policy":
        """Loads the base model and adds the student's adapter, and the teacher's if there is a parent.

        Args:
            lora: Shape of a new adapter. If there is a parent, its rank, alpha and target modules win.
            parent_adapter: Folder of the parent version; None starts from the bare base model.
            dtype: Number format of the frozen base; LoRA weights are always float32. See `choose_dtype`.
            checkpointing: Whether training passes checkpoint the layers; `auto` means those that do not fit otherwise.

        Raises:
            BadInputError: The LoRA would target the head or embeddings, or the model transforms its logits.
        """
        torch_device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        model: Any = AutoModelForCausalLM.from_pretrained(
            model_path, dtype=choose_dtype(dtype, torch_device), use_safetensors=True
        )
        tokenizer = AutoTokenizer.from_pretrained(model_path)
        return cls.on_model(
            model.to(torch_device), tokenizer, lora, parent_adapter, checkpointing=checkpointing, seed=seed
        )

    @classmethod
    def on_model(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        lora: LoraOptions,
        parent_adapter: Path | None = None,
        *,
        checkpointing: Checkpointing = "auto",
        seed: int = 0,
    ) -> "Policy":
        """Builds a policy like `load`, on a model that is already in memory; its weights are frozen."""
        forbidden = sorted(set(lora.target_modules) & set(FORBIDDEN_TARGETS))
        if forbidden:
            raise BadInputError(
                f"lora.target_modules names {', '.join(forbidden)}; remove them, because head and embeddings must "
                "stay frozen",
                param="lora.target_modules",
            )
        torch.manual_seed(seed)
        if parent_adapter is None:
            config = PeftLoraConfig(
                r=lora.rank,
                lora_alpha=cast(int, lora.alpha),
                target_modules=lora.target_modules,
                task_type="CAUSAL_LM",
            )
            peft = cast(PeftModel, get_peft_model(model, config, adapter_name=STUDENT))
        else:
            peft = PeftModel.from_pretrained(model, parent_adapter, adapter_name=STUDENT, is_trainable=True)
            peft.load_adapter(str(parent_adapter), adapter_name=TEACHER, is_trainable=False)
        return cls(model, tokenizer, peft, checkpointing, has_teacher=parent_adapter is not None)

    @property
    def model(self) -> PreTrainedModel:
        """The base model with its LoRA layers in place."""
        return self._model

    def decode(self, token_ids: list[int]) -> str:
        """The text of tokens, special ones included."""
        assert self.tokenizer is not None
        return cast(str, self.tokenizer.decode(token_ids))

    def parameters(self) -> list[torch.nn.Parameter]:
        """The student's LoRA weights, float32."""
        return list(self.named_parameters().values())

    def named_parameters(self) -> dict[str, torch.nn.Parameter]:
        """The student's LoRA weights by name, always in the same order."""
        weights = self._peft.named_parameters()
        return {name: weight for name, weight in weights if "lora_" in name and f".{STUDENT}." in name}

    def weights(self) -> Weights:
        """A copy of the student's LoRA weights as they are now."""
        return [weight.detach().clone() for weight in self.parameters()]

    def set_weights(self, weights: Weights) -> None:
        """Gives the student these LoRA weights."""
        with torch.no_grad():
            for weight, value in zip(self.parameters(), weights, strict=True):
                weight.copy_(value)

    def read_weights(self, adapter: Path) -> Weights:
        """The LoRA weights of another version, whose folder is `adapter`.

        Raises:
            BadInputError: Its LoRA has another rank, scale or other modules than the student's.
        """
        mine, theirs = self._peft.peft_config[STUDENT], PeftLoraConfig.from_pretrained(str(adapter))
        tensors = load_file(adapter / "adapter_model.safetensors", device=str(self.device))
        named = {name.replace(f".{STUDENT}.", "."): weight for name, weight in self.named_parameters().items()}
        shapes = {name: weight.shape for name, weight in named.items()}
        same_scale = all(getattr(mine, key) == getattr(theirs, key) for key in ("r", "lora_alpha", "use_rslora"))
        if not same_scale or shapes != {name: tensor.shape for name, tensor in tensors.items()}:
            raise BadInputError(
                f"the LoRA in {adapter} has another rank, scale or other modules than this one, so there is no way "
                "between them; choose a version of the same run",
                param="towards",
            )
        return [tensors[name].to(weight.dtype) for name, weight in named.items()]

    @contextmanager
    def as_teacher(self) -> Iterator[None]:
        """Inside the context, the model computes with the parent's adapter, and no gradient is recorded."""
        if not self._has_teacher:
            with self.as_base():
                yield
            return
        self._peft.set_adapter(TEACHER, inference_mode=True)
        try:
            with torch.no_grad():
                yield
        finally:
            self._peft.set_adapter(STUDENT)

    @contextmanager
    def as_base(self) -> Iterator[None]:
        """Inside the context, the model computes without any adapter, and no gradient is recorded."""
        with self._peft.disable_adapter(), torch.no_grad():
            yield

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Inside the context, the active adapter is merged into the weights, and no gradient is recorded.

        This is for sampling many tokens from one policy; see `workers.lora.merged_lora`.
        """
        with merged_lora(self._lora_layers):
            yield

    def hidden(self, batch: TokenBatch) -> Tensor:
        """Hidden states after the final norm, at the positions that predict the completion tokens: [T, D]."""
        output, states_of = self._run(batch)
        return states_of(output.last_hidden_state)

    def add_gradients(self, loss: Tensor) -> None:
        """Adds the gradient of a loss to those of the student's weights. If memory runs out, none has changed."""
        weights = self.parameters()
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient if weight.grad is None else weight.grad.add_(gradient)

    def hidden_layers(self, batch: TokenBatch) -> list[Tensor]:
        """Hidden states at the same positions after every block, [T, D] each.

        The last of them is taken after the final norm, as in `hidden`.
        """
        output, states_of = self._run(batch, output_hidden_states=True)
        return [states_of(states) for states in [*output.hidden_states[1:-1], output.last_hidden_state]]

    def _run(self, batch: TokenBatch, **options: Any) -> tuple[Any, Callable[[Tensor], Tensor]]:
        """The model's output, and what takes the states at the predicting positions from it.

        A model that takes no packs gets the sequences padded on the right. Attention is causal, so no real token ever
        sees the padding and no mask is needed.
        """
        is_checkpointed = torch.is_grad_enabled() and self.memory.checkpoints(computed_positions(batch.sequences))
        with self._layers.checkpoint(is_checkpointed):
            if self._can_pack:
                output = batch.pack.run(self._model.base_model, **options)
                return output, lambda states_1ND: states_1ND[0, batch.pack.state_T]
            ids_BL, positions_T = batch.padded
            output = self._model.base_model(input_ids=ids_BL, use_cache=False, **options)
            return output, lambda states_BLD: states_BLD[batch.rows_T, positions_T]

    def decode_step(self, ids_BL: Tensor, positions_BL: Tensor, mask_BL: Tensor | None, cache: Cache) -> Tensor:
        """Processes new tokens, and returns the hidden state at the last of them, [B, D].

        Args:
            positions_BL: Position of every new token in its sequence; one row, if they are the same for all.
            mask_BL: 1 for every real token, old and new, and 0 for padding on the left; None if there is no padding.
            cache: The new tokens' keys and values are added to it.
        """
        output = self._model.base_model(
            input_ids=ids_BL,
            position_ids=positions_BL,
            attention_mask=mask_BL,
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state[:, -1]

    def micro_batches(self, sequences: Sequences) -> list[list[int]]:
        """Indices of the sequences that go through the model together.

        They are sorted by length, as by the function `micro_batches`, or by prompt if this lets the model compute fewer
        positions, because prompts are shared.
        """
        limit = self.micro_batch_tokens
        plans = [micro_batches([len(prompt) + len(completion) for prompt, completion in sequences], limit)]
        if self._can_pack:
            plans.append(by_prompt(sequences, limit))
        return min(plans, key=lambda plan: sum(computed_positions([sequences[i] for i in part]) for part in plan))

    @property
    def micro_batch_tokens(self) -> int:
        """Padded tokens of one forward and backward pass."""
        return self.memory.tokens

    @property
    def stop_ids(self) -> frozenset[int]:
        """Tokens that end a completion, as the model's generation configuration names them."""
        config = self._model.generation_config
        ids = config.eos_token_id if config is not None else None
        return frozenset([ids] if isinstance(ids, int) else ids or [])

    def logprobs(self, sequences: Sequences) -> list[list[float]]:
        """The log-probability of every completion token under the active adapter, in nats, without gradient."""
        with torch.no_grad():
            batch = TokenBatch.build(sequences, self.device)
            logprobs_T, _ = chunked_logprobs(self.hidden(batch), self.head_VD, batch.targets_T)
        split = torch.split(logprobs_T.cpu(), [len(completion) for _, completion in sequences])
        return [part.tolist() for part in split]

    def save(self, folder: Path, model_path: Path) -> None:
        """Writes the student as `adapter_model.safetensors` and `adapter_config.json`.

        Args:
            folder: The folder to write, which appears complete or not at all; an existing one is replaced.
            model_path: Folder that is recorded as the adapter's base model.
        """
        config = self._peft.peft_config[STUDENT].to_dict()
        config.update(base_model_name_or_path=str(model_path), inference_mode=True)
        # Embeddings are never trained. Asked to find that out by itself, peft may look the base up on the hub.
        weights = get_peft_model_state_dict(self._peft, adapter_name=STUDENT, save_embedding_layers=False)
        tensors = {name: weight.detach().float().cpu().contiguous() for name, weight in weights.items()}
        text = json.dumps(_jsonable(config), indent=2, sort_keys=True) + "\n"
        with publish_folder(folder) as scratch:
            save_file(tensors, scratch / "adapter_model.safetensors", metadata={"format": "pt"})
            (scratch / "adapter_config.json").write_text(text)


def choose_dtype(name: NumberFormat, device: torch.device) -> torch.dtype:
    """The number format of the frozen base model.

    `auto` means bfloat16 on CUDA and, on a CPU, the format of an engine on the same machine.
    """
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" or cpu_format().name == "bfloat16" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def _plain_head(model: PreTrainedModel) -> Tensor:
    """The LM head's weight, [V, D].

    Raises:
        BadInputError: The model's logits are not simply hidden @ head.T.
    """
    reason = unsupported(model.config.get_text_config().to_dict())
    if reason is not None:
        raise BadInputError(f"the policy cannot be trained: {reason}; docs/models.md lists what is supported")
    head = model.get_output_embeddings()
    if head is None or getattr(head, "bias", None) is not None:
        raise BadInputError(f"{type(model).__name__} has no LM head without bias; use a plain causal language model")
    return cast(Tensor, head.weight).detach()


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, set):
        return sorted(value)
    return value.value if isinstance(value, Enum) else value
