"""Remedies on a toy policy that has lost a strategy: what brings the problems back that it solved before."""

from pathlib import Path
from typing import Any

import pytest
import torch

from reheatd.errors import BadInputError
from reheatd.jobs.contracts import ReheatSpec
from reheatd.options import LoraOptions
from reheatd.signal import is_restored
from reheatd.task_data import Problem
from tests.unit.workers_support import (
    VOCABULARY,
    RecordingSampler,
    SilentProgress,
    job_fields,
    number_prompts,
    tiny_model,
)
from workers.policy import Policy
from workers.remedies import make_trainer
from workers.rewards.scoring import InProcessScorer
from workers.shrink import Shrinker, ShrinkOutcome
from workers.signal_meter import SignalMeter
from workers.ts_opsd import Reheater

LORA = LoraOptions(rank=8, alpha=16)
PROMPTS = number_prompts(40)
PROBLEMS = [Problem(messages, str(number)) for number, messages in enumerate(PROMPTS)]
"""Each asks for one token, which the policy samples now and then, and the collapsed policy never."""
COLLAPSED_NATS, TARGET = 0.06, 1.2


def contains(completion: str, answer: str) -> float:
    return float(answer in completion.split())


@pytest.fixture(scope="module")
def collapsed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that lets the policy write hardly more than one answer to each prompt."""
    folder = tmp_path_factory.mktemp("collapsed")
    policy = Policy.on_model(tiny_model(), None, LORA)
    spec = make_spec(folder, teacher="live", tau=0.5, target_entropy=COLLAPSED_NATS, learning_rate=0.01, steps=60)
    Reheater(policy, spec, RecordingSampler(policy, PROMPTS), PROMPTS, SilentProgress()).run()
    policy.save(folder / "adapter", folder)
    return folder / "adapter"


def make_spec(folder: Path, **fields: Any) -> ReheatSpec:
    common: dict[str, Any] = {"max_tokens": 8, "signal_problems": 40, "rl": {"max_tokens": 8, "steps": 3}}
    return ReheatSpec(**job_fields(folder), **common | fields)


def parent(collapsed: Path) -> tuple[Policy, RecordingSampler]:
    policy = Policy.on_model(tiny_model(), None, LORA, collapsed)
    return policy, RecordingSampler(policy, PROMPTS)


def shrink(collapsed: Path, **fields: Any) -> tuple[ShrinkOutcome, Policy, RecordingSampler]:
    policy, sampler = parent(collapsed)
    spec = make_spec(collapsed.parent, remedy="shrink", **{"target_entropy": TARGET} | fields)
    return Shrinker(policy, spec, sampler, SilentProgress()).run(), policy, sampler


@pytest.mark.parametrize(
    ("fields", "restores"),
    [
        ({"remedy": "shrink"}, True),
        ({"remedy": "ts_opsd", "learning_rate": 0.003}, True),
        ({"remedy": "hot", "hot_temperature": 1.01}, False),  # hardly hotter: as good as going on
    ],
)
def test_lost_problems_are_found_again(collapsed: Path, fields: dict[str, Any], restores: bool) -> None:
    policy, sampler = parent(collapsed)
    spec = make_spec(collapsed.parent, target_entropy=TARGET, **fields)
    scorer, progress = InProcessScorer(contains), SilentProgress()
    meter = SignalMeter(spec, sampler, PROBLEMS, scorer, progress)
    assert meter.before.problems == 40 and meter.before.lost > 20 and meter.samples == 40 * 16
    make_trainer(policy, spec, sampler, PROBLEMS, scorer, progress).run()
    after = meter.measure()
    assert is_restored(meter.before, after) is restores
    assert (after.varied > meter.before.varied + 4) is restores
    assert after.samples == meter.before.lost * 16 == after.lost * 16


def test_shrinking_scales_the_update_of_every_layer(collapsed: Path) -> None:
    outcome, policy, sampler = shrink(collapsed)
    assert outcome.entropy_after.mean == pytest.approx(TARGET, rel=0.12) and 0 < outcome.factor < 1
    assert sampler.published == list(range(1, outcome.steps + 1))
    before = parent(collapsed)[0].named_parameters()
    for name, weight in policy.named_parameters().items():
        scale = outcome.factor if ".lora_B." in name else 1.0
        torch.testing.assert_close(weight, before[name] * scale)


def test_shrinking_can_lead_towards_an_earlier_version(collapsed: Path, tmp_path: Path) -> None:
    middle, policy, _ = shrink(collapsed)
    earlier = Policy.on_model(tiny_model(), None, LORA)
    earlier.set_weights(policy.weights())
    earlier.save(tmp_path / "earlier", tmp_path)
    target = (middle.entropy_before.mean + middle.entropy_after.mean) / 2
    outcome, between, _ = shrink(collapsed, target_entropy=target, towards_adapter=tmp_path / "earlier")
    assert outcome.entropy_after.mean == pytest.approx(target, rel=0.12)
    ends = zip(parent(collapsed)[0].parameters(), policy.parameters(), between.parameters(), strict=True)
    for start, end, found in ends:
        torch.testing.assert_close(found, torch.lerp(end, start, outcome.factor))


def test_what_cannot_be_shrunk_says_why(collapsed: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"has reached the target of 0\.010 already"):
        shrink(collapsed, target_entropy=0.01)
    with pytest.raises(BadInputError, match=r"no factor between 0\.000 and 0\.008 brings the policy to the target"):
        shrink(collapsed, target_entropy=0.99 * torch.log(torch.tensor(float(VOCABULARY))).item())
    other = Policy.on_model(tiny_model(), None, LoraOptions(rank=4, alpha=16))
    other.save(tmp_path / "other", tmp_path)
    with pytest.raises(BadInputError, match="another rank, scale or other modules") as refused:
        shrink(collapsed, towards_adapter=tmp_path / "other")
    assert refused.value.param == "towards"


def test_rl_as_a_remedy_has_the_options_of_the_remedy(collapsed: Path) -> None:
    policy, sampler = parent(collapsed)
    rl = {"max_tokens": 8, "steps": 3, "learning_rate": 0.01}
    spec = make_spec(collapsed.parent, remedy="entropy_bonus", bonus=0.3, target_entropy=TARGET, rl=rl)
    progress = SilentProgress()
    outcome = make_trainer(policy, spec, sampler, PROBLEMS, InProcessScorer(contains), progress).run()
    steps = [metrics for phase, _, metrics in progress.reports if phase == "training"]
    assert len(steps) == outcome.steps == 3
    for metrics in steps:
        assert metrics["entropy_bonus"] == pytest.approx(0.3 * (1 - metrics["entropy"] / TARGET), abs=0.03)
    assert outcome.entropy_after.low > outcome.entropy_before.high
