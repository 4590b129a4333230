"""TS-OPSD on a tiny policy with an in-process sampler."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from reheatd.errors import BadInputError
from reheatd.jobs.contracts import ReheatSpec
from reheatd.measures import EntropyEstimate
from reheatd.options import LoraOptions
from tests.unit.workers_support import RecordingSampler, SilentProgress, job_fields, number_prompts, tiny_model
from workers.policy import Policy, TokenBatch, micro_batches
from workers.sampling.seeds import seed_for
from workers.ts_opsd import Reheater, ReheatOutcome

LORA = LoraOptions(rank=8, alpha=16)


def train(tmp_path: Path, parent: Path | None = None, **fields: Any) -> tuple[ReheatOutcome, RecordingSampler]:
    policy = Policy.on_model(tiny_model(), None, LORA, parent)
    sampler = RecordingSampler(policy, number_prompts(48))
    defaults: dict[str, Any] = {"learning_rate": 0.01, "max_tokens": 12, "prompts_per_step": 16, "steps": 24}
    spec = ReheatSpec(**job_fields(tmp_path), **(defaults | fields))
    outcome = Reheater(policy, spec, sampler, number_prompts(64), SilentProgress()).run()
    return outcome, sampler


@pytest.mark.parametrize("teacher", ["frozen", "live"])
@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
def test_entropy_rises_above_one_and_falls_below_one(tmp_path: Path, teacher: str, divergence: str) -> None:
    hotter, _ = train(tmp_path, tau=2.0, teacher=teacher, divergence=divergence)
    colder, _ = train(tmp_path, tau=0.5, teacher=teacher, divergence=divergence)
    assert hotter.entropy_after.mean > 1.03 * hotter.entropy_before.mean
    assert colder.entropy_after.mean < 0.97 * colder.entropy_before.mean
    assert hotter.stopped == colder.stopped == "steps"


def start_of(tmp_path: Path) -> float:
    """The entropy of the policy before training, in nats per token."""
    outcome, _ = train(tmp_path, tau=2.0, steps=1, learning_rate=1e-9)
    return outcome.entropy_before.mean


@pytest.mark.parametrize("teacher", ["live", "frozen"])
@pytest.mark.parametrize(("tau", "ratio"), [(None, 1.2), (0.4, 0.85)])
def test_target_entropy_is_reached_and_not_passed(
    tmp_path: Path, teacher: str, tau: float | None, ratio: float
) -> None:
    target = ratio * start_of(tmp_path)
    outcome, sampler = train(tmp_path, tau=tau, target_entropy=target, steps=80, teacher=teacher)
    assert outcome.stopped == "target"
    assert 0 < outcome.steps < 80
    assert outcome.entropy_after.mean == pytest.approx(target, rel=0.11)
    assert sampler.published[-1] >= outcome.steps


def test_a_student_that_jumped_past_the_target_is_taken_back_in_the_same_step(tmp_path: Path) -> None:
    target = 1.15 * start_of(tmp_path)
    outcome, sampler = train(tmp_path, target_entropy=target, steps=80, learning_rate=1.0, warmup_steps=0, tau=3.0)
    assert max(sampler.entropies) > 1.25 * target
    assert outcome.stopped == "target"
    assert outcome.entropy_after.mean == pytest.approx(target, rel=0.11)
    again = sampler.measure_entropy(seed_for("probes", 0, outcome.steps, 0))
    assert outcome.entropy_after.low < again.mean < outcome.entropy_after.high


@pytest.mark.parametrize(("tau", "ratio", "says"), [(None, 0.5, "never cools"), (0.5, 2.0, "never heats")])
def test_a_target_on_the_other_side_is_refused(tmp_path: Path, tau: float | None, ratio: float, says: str) -> None:
    with pytest.raises(BadInputError, match=says) as refused:
        train(tmp_path, tau=tau, target_entropy=ratio * start_of(tmp_path))
    assert refused.value.param == "target_entropy"


def test_rollouts_that_are_used_for_several_steps_do_not_hide_the_target(tmp_path: Path) -> None:
    target = 1.2 * start_of(tmp_path)
    outcome, _ = train(tmp_path, target_entropy=target, steps=80, refresh_every=4, prompts_per_step=8)
    assert outcome.stopped == "target"
    assert outcome.entropy_after.mean == pytest.approx(target, rel=0.11)


def test_entropy_that_the_daemon_has_measured_is_taken_over(tmp_path: Path) -> None:
    known = EntropyEstimate(mean=1.5, low=1.4, high=1.6, tokens=100, sequences=10)
    outcome, sampler = train(tmp_path, tau=2.0, steps=2, parent_entropy=known)
    assert outcome.entropy_before == known
    assert sampler.entropies == [outcome.entropy_after.mean]


def test_a_target_already_met_trains_nothing(tmp_path: Path) -> None:
    outcome, sampler = train(tmp_path, target_entropy=start_of(tmp_path))
    assert outcome.steps == 0 and sampler.published == []


def test_same_seed_gives_the_same_run(tmp_path: Path) -> None:
    first, _ = train(tmp_path, tau=1.5, steps=6, seed=5)
    second, _ = train(tmp_path, tau=1.5, steps=6, seed=5)
    assert first == second


def test_neither_tau_nor_target_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="tau or a target"):
        train(tmp_path)


def trained_adapter(tmp_path: Path) -> Path:
    policy = Policy.on_model(tiny_model(), None, LORA)
    for weight in policy.parameters():
        weight.data.add_(0.05 * torch.randn_like(weight))
    policy.save(tmp_path / "parent", tmp_path)
    return tmp_path / "parent"


def hidden(policy: Policy, batch: TokenBatch) -> torch.Tensor:
    with torch.no_grad():
        return policy.hidden(batch)


def test_student_and_teacher_start_as_the_parent(tmp_path: Path) -> None:
    policy = Policy.on_model(tiny_model(), None, LORA, trained_adapter(tmp_path))
    batch = TokenBatch.build([([1, 2, 3], [4, 5]), ([6], [7, 8, 9])], policy.device)
    student = hidden(policy, batch)
    with policy.as_teacher():
        torch.testing.assert_close(policy.hidden(batch), student)
    with policy.as_base():
        assert (policy.hidden(batch) - student).abs().max() > 1e-3
    torch.testing.assert_close(hidden(policy, batch), student)
    assert all(weight.requires_grad for weight in policy.parameters())


def test_training_moves_the_student_and_never_the_teacher(tmp_path: Path) -> None:
    parent = trained_adapter(tmp_path)
    policy = Policy.on_model(tiny_model(), None, LORA, parent)
    batch = TokenBatch.build([([1, 2, 3], [4, 5])], policy.device)
    start = hidden(policy, batch)
    spec = ReheatSpec(**job_fields(tmp_path), tau=1.5, steps=2, learning_rate=0.01, max_tokens=8, prompts_per_step=8)
    Reheater(policy, spec, RecordingSampler(policy, number_prompts(8)), number_prompts(8), SilentProgress()).run()
    assert (hidden(policy, batch) - start).abs().max() > 1e-3
    with policy.as_teacher():
        torch.testing.assert_close(policy.hidden(batch), start)


def test_saved_adapter_is_what_the_engine_takes(tmp_path: Path) -> None:
    folder = trained_adapter(tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["r"] == 8
    assert config["base_model_name_or_path"] == str(tmp_path)
    assert "lm_head" not in config["target_modules"]
    weights = load_file(folder / "adapter_model.safetensors")
    assert len(weights) == 2 * 2 * 7  # A and B, two layers, seven projections
    assert all(name.startswith("base_model.model.model.layers.") for name in weights)
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in weights)
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_padding_does_not_change_the_logprobs() -> None:
    policy = Policy.on_model(tiny_model(), None, LORA)
    pairs = [([1, 2, 3], [4, 5]), ([6], [7, 8, 9, 10, 11]), ([5, 5, 5, 5], [1])]
    together = policy.logprobs(pairs)
    alone = [policy.logprobs([pair])[0] for pair in pairs]
    for both, single in zip(together, alone, strict=True):
        assert both == pytest.approx(single, abs=1e-5)


@pytest.mark.parametrize("target", ["lm_head", "embed_tokens"])
def test_lora_on_the_head_is_refused(target: str) -> None:
    with pytest.raises(BadInputError, match=target):
        Policy.on_model(tiny_model(), None, LoraOptions(target_modules=["q_proj", target]))


def test_a_model_that_transforms_its_logits_is_refused() -> None:
    model = tiny_model()
    model.config.final_logit_softcapping = 30.0
    with pytest.raises(BadInputError, match="final_logit_softcapping = 30"):
        Policy.on_model(model, None, LORA)


def test_micro_batches_cover_everything_within_the_limit() -> None:
    lengths = [5, 90, 30, 30, 7, 200, 1]
    groups = micro_batches(lengths, 100)
    assert sorted(index for group in groups for index in group) == list(range(7))
    assert all(len(group) * max(lengths[i] for i in group) <= 100 for group in groups if len(group) > 1)
    assert [5] in groups
