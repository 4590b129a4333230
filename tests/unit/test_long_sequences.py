"""Packing, gradient checkpointing and the way back from too little memory, on the shapes of models that people have."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from reheatd.errors import OutOfMemoryError
from reheatd.jobs.contracts import ReheatSpec, RLSpec
from reheatd.options import Checkpointing, LoraOptions
from reheatd.plan.memory import ActivationCost
from tests.unit.workers_support import VOCABULARY, job_fields
from workers import packing, policy, training_memory
from workers.free_memory import free_bytes
from workers.losses import chunked_divergence
from workers.policy import Policy, TokenBatch
from workers.rl_learner import Learner
from workers.sampling.groups import ScoredRollout
from workers.sampling.rollout import Rollout
from workers.ts_opsd import Reheater

SIZES = {"vocab_size": VOCABULARY, "max_position_embeddings": 256, "initializer_range": 0.2}
BODY = {
    **SIZES,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def llama(*, tied: bool) -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**BODY, tie_word_embeddings=tied))


def qwen3(*, tied: bool) -> PreTrainedModel:
    return Qwen3ForCausalLM(Qwen3Config(**BODY, tie_word_embeddings=tied))


def gemma3(*, tied: bool) -> PreTrainedModel:
    """One layer sees 16 tokens back, the other all."""
    layers = ["sliding_attention", "full_attention"]
    config = Gemma3TextConfig(**BODY, sliding_window=16, layer_types=layers, tie_word_embeddings=tied)
    return Gemma3ForCausalLM(config)


def gpt2(*, tied: bool) -> PreTrainedModel:
    """With dropout, as its checkpoints have it."""
    return GPT2LMHeadModel(GPT2Config(**SIZES, n_embd=32, n_layer=2, n_head=4, tie_word_embeddings=tied))


Shape = Callable[..., PreTrainedModel]


def tokens(count: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCABULARY, (count,), generator=generator).tolist()


MIXED = [(tokens(9, 1), tokens(100, 2)), (tokens(5, 3), tokens(70, 4)), (tokens(20, 5), tokens(1, 6))]
MIXED += [(tokens(3 + i, 7), tokens(4 + i, 8)) for i in range(5)]
SHARED = [(tokens(40, 9), tokens(count, count)) for count in (90, 30, 7, 7, 1)] + [(tokens(11, 10), tokens(20, 11))]
"""A group of rollouts of one prompt, one of which is so short that nothing of it is computed, and one of another."""


def make(shape: Shape, *, tied: bool = True, checkpointing: Checkpointing = "auto") -> Policy:
    torch.manual_seed(0)
    model = shape(tied=tied)
    targets = ["c_attn", "c_proj", "c_fc"] if shape is gpt2 else LoraOptions().target_modules
    lora = LoraOptions(rank=4, alpha=8, target_modules=targets)
    made = Policy.on_model(model, None, lora, checkpointing=checkpointing)
    generator = torch.Generator().manual_seed(1)
    for weight in made.parameters():
        weight.data.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return made


def gradients(made: Policy, sequences: list[tuple[list[int], list[int]]]) -> list[torch.Tensor]:
    batch = TokenBatch.build(sequences, made.device)
    divergence_T, _, _ = chunked_divergence(made.hidden(batch), made.head_VD, tau=1.5, kind="forward_kl")
    made.add_gradients(divergence_T.sum())
    found = [weight.grad for weight in made.parameters() if weight.grad is not None]
    assert len(found) == len(made.parameters())
    return found


def assert_equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-5


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("shape", [llama, qwen3, gemma3, gpt2])
@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
class TestGradients:
    def test_are_the_same_packed_and_padded(self, monkeypatch: pytest.MonkeyPatch, shape: Shape, tied: bool) -> None:
        for sequences in (MIXED, SHARED):
            made = make(shape, tied=tied)
            assert TokenBatch.build(sequences, made.device).pack.shares_prompts == (sequences is SHARED)
            packed = gradients(made, sequences)
            with monkeypatch.context() as patched:
                patched.setattr(policy, "can_pack", lambda _: False)
                assert_equal(packed, gradients(make(shape, tied=tied), sequences))

    def test_are_the_same_with_checkpoints(self, shape: Shape, tied: bool) -> None:
        for sequences in (MIXED, SHARED):
            plain = make(shape, tied=tied, checkpointing=False)
            checkpointed = make(shape, tied=tied, checkpointing=True)
            assert kept(checkpointed, sequences) < kept(plain, sequences) / 2
            assert_equal(gradients(checkpointed, sequences), gradients(plain, sequences))


def kept(made: Policy, sequences: list[tuple[list[int], list[int]]]) -> int:
    """Bytes that a training pass keeps for the backward pass, the model's weights not counted."""
    weights = {weight.untyped_storage().data_ptr() for weight in made.model.parameters()}
    storages: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = TokenBatch.build(sequences, made.device)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden_TD = made.hidden(batch)
    assert hidden_TD.requires_grad
    return sum(storages.values())


def test_a_model_that_computes_attention_itself_is_padded() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(**BODY)
    config._attn_implementation = "eager"
    assert not packing.can_pack(LlamaForCausalLM(config))
    made = Policy.on_model(LlamaForCausalLM(config), None, LoraOptions(rank=4))
    with torch.no_grad():
        states = made.hidden(TokenBatch.build(MIXED, made.device))
        alone = [made.hidden(TokenBatch.build([sequence], made.device)) for sequence in MIXED]
    torch.testing.assert_close(states, torch.cat(alone), atol=1e-5, rtol=1e-5)


class Scarce:
    """Lets passes over more than a number of tokens run out of memory in the backward pass, as CUDA would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, plain: int, checkpointed: int) -> None:
        self.passes: list[tuple[int, bool]] = []
        self._limits = {False: plain, True: checkpointed}
        self._add = Policy.add_gradients
        self._hidden = Policy.hidden
        scarce = self

        def hidden(made: Policy, batch: TokenBatch) -> torch.Tensor:
            if torch.is_grad_enabled():
                count = sum(len(prompt) + len(rest) for prompt, rest in batch.sequences)
                scarce.passes.append((count, made.memory.checkpoints(count)))
            return scarce._hidden(made, batch)

        def add_gradients(made: Policy, loss: torch.Tensor) -> None:
            count, is_checkpointed = scarce.passes[-1]
            if count > scarce._limits[is_checkpointed]:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            scarce._add(made, loss)

        monkeypatch.setattr(Policy, "hidden", hidden)
        monkeypatch.setattr(Policy, "add_gradients", add_gradients)


def rollouts(count: int = 8) -> list[Rollout]:
    return [Rollout(tokens(5, i), tokens(15, 20 + i), "", [-2.0] * 15, "test", False) for i in range(count)]


def reheat_gradient(tmp_path: Path, checkpointing: Checkpointing = "auto") -> tuple[Policy, dict[str, float]]:
    made = make(llama, checkpointing=checkpointing)
    reheater = Reheater(made, ReheatSpec(**job_fields(tmp_path), tau=1.5), None, [], None)  # pyright: ignore[reportArgumentType]
    return made, reheater._backward(rollouts())


def test_a_micro_batch_that_does_not_fit_is_checkpointed_then_halved_and_that_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plenty, expected = reheat_gradient(tmp_path)
    scarce = Scarce(monkeypatch, plain=10, checkpointed=90)
    made, found = reheat_gradient(tmp_path)
    assert found == pytest.approx(expected, rel=1e-5)
    assert_equal([w.grad for w in made.parameters()], [w.grad for w in plenty.parameters()])  # pyright: ignore[reportArgumentType]
    assert scarce.passes == [(160, False), (160, True), (80, True), (80, True)]
    assert made.micro_batch_tokens <= 80 and made.memory.checkpoints(80)


def test_an_update_of_rl_survives_too_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the old policy has been computed on the micro-batch already: it is halved with it."""
    spec = RLSpec(**job_fields(tmp_path), learning_rate=1e-3, kl_coef=0.1, epochs=2)
    scored = [ScoredRollout(rollout, 0.0, (-1.0) ** i) for i, rollout in enumerate(rollouts())]
    expected = Learner(make(llama), spec).learn(scored)
    scarce = Scarce(monkeypatch, plain=90, checkpointed=90)
    assert Learner(make(llama, checkpointing=False), spec).learn(scored) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert [count for count, _ in scarce.passes] == [160, 80, 80, 80, 80]


def test_halves_of_a_micro_batch_keep_the_old_policy_of_their_own_rollouts(tmp_path: Path) -> None:
    spec = RLSpec(**job_fields(tmp_path), kl_coef=0.1)
    scored = [
        ScoredRollout(
            dataclasses.replace(rollout, token_ids=rollout.token_ids[: 3 + i], logprobs=[-2.0] * (3 + i)), 0.0, 1.0
        )
        for i, rollout in enumerate(rollouts())
    ]
    learner = Learner(make(llama), spec)
    (micro,) = learner._micro_batches(scored)
    learner._compute_old(micro)
    for half in micro.halves():
        alone = type(micro).build(half.scored, half.tokens.rows_T.device)
        learner._compute_old(alone)
        assert half.old is not None and alone.old is not None
        for field in dataclasses.fields(half.old):
            torch.testing.assert_close(getattr(half.old, field.name), getattr(alone.old, field.name))


@pytest.mark.parametrize(
    ("checkpointing", "way_out"), [("auto", "lower max_tokens"), (False, "gradient_checkpointing")]
)
def test_a_sequence_that_never_fits_is_one_line_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpointing: Checkpointing, way_out: str
) -> None:
    Scarce(monkeypatch, plain=10, checkpointed=10)
    with pytest.raises(OutOfMemoryError, match=way_out) as caught:
        reheat_gradient(tmp_path, checkpointing)
    assert "a sequence of" in caught.value.message and "\n" not in caught.value.message


def test_a_sequence_that_linux_would_kill_the_worker_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An allocation on a CPU succeeds whether there is memory or not."""
    monkeypatch.setattr(training_memory, "free_bytes", lambda _: 100_000)
    with pytest.raises(OutOfMemoryError, match=r"0\.0 GiB are free"):
        reheat_gradient(tmp_path)


def test_another_error_is_not_taken_for_too_little_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Policy, "add_gradients", broken)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        reheat_gradient(tmp_path)


def test_memory_decides_about_micro_batches_and_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = ActivationCost(plain=1000, checkpointed=100)
    cpu = torch.device("cpu")
    monkeypatch.setattr(training_memory, "free_bytes", lambda _: 1_250_000)
    auto = training_memory.TrainingMemory(cost, 512, cpu, "auto")
    assert auto.tokens == 1024 and not auto.checkpoints(500) and auto.checkpoints(501)
    assert training_memory.TrainingMemory(cost, 512, cpu, False).tokens == 500
    assert training_memory.TrainingMemory(cost, 512, cpu, True).checkpoints(1)
    monkeypatch.setattr(training_memory, "free_bytes", lambda _: 12_500)
    assert training_memory.TrainingMemory(cost, 512, cpu, "auto").tokens == 50


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize("version", [1, 2])
def test_free_memory_is_what_the_tightest_control_group_leaves(tmp_path: Path, version: int) -> None:
    cpu = torch.device("cpu")
    line = {1: "4:memory:/a/b\n9:name=systemd:/\n", 2: "0::/a/b\n"}[version]
    write(tmp_path, {"proc/meminfo": "MemTotal: 90 kB\nMemAvailable: 80 kB\n", "proc/self/cgroup": line})
    assert free_bytes(cpu, tmp_path) == 80 * 1024
    mount, limit, usage, cache = {
        1: ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        2: ("", "memory.max", "memory.current", "inactive_file"),
    }[version]
    for group, most in {"a": 50_000, "a/b": "max" if version == 2 else 2**60}.items():
        folder = f"sys/fs/cgroup/{mount}/{group}"
        write(tmp_path, {f"{folder}/{limit}": f"{most}\n", f"{folder}/{usage}": "30000\n"})
        write(tmp_path, {f"{folder}/memory.stat": f"anon 1\n{cache} 5000\n"})
    assert free_bytes(cpu, tmp_path) == 50_000 - 30_000 + 5000
