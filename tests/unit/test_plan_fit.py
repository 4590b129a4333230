"""How the memory of a machine is divided, and how long a step takes."""

from typing import Any

import pytest

from reheatd.config import Settings
from reheatd.errors import BadInputError
from reheatd.plan.demand import demand_of
from reheatd.plan.fit import Demand, Fit, Machine, fit, longest_answers, step_time
from reheatd.plan.memory import ALL_TARGETS, ActivationCost, Adapters
from reheatd.plan.placement import place
from reheatd.plan.shape import PolicyShape
from reheatd.plan.speed import CARDS, Rollouts
from tests.unit.test_plan_shape import PUBLISHED

GIB = 1 << 30
GPUS = ["0", "1"]
SIZES: dict[str, int] = dict(zip(("0.6B", "4B", "8B", "32B"), sorted(PUBLISHED), strict=True))


def demand(size: str, tokens: int = 4096, **options: object) -> Demand:
    shape = PolicyShape.read({**PUBLISHED[SIZES[size]], "max_position_embeddings": 40960})
    fields: dict[str, object] = {"workers": 1, "max_num_seqs": 64, "kv_cache_bytes": GIB, **options}
    return Demand(shape, Adapters(6, 16, 16, ALL_TARGETS), Rollouts(4, 4, 512, tokens), **fields)  # type: ignore[arg-type]


def on(memory_gib: int, gpus: int, wanted: Demand) -> Fit:
    names = [str(index) for index in range(gpus)]
    placement = place(names, replicas=1, workers=wanted.workers, heads=wanted.shape.heads)
    return fit(wanted, Machine("cuda", memory_gib * GIB, 2), placement)


def test_activations_are_those_of_the_published_arithmetic() -> None:
    cost = ActivationCost.of(demand("8B").shape, 2)
    # 2 x 4096 + 3 x 4096 + 2 x 1024 + 4 x 12288 numbers in bfloat16 and 2 x 4096 in float32, in each of 36 layers.
    assert cost.plain == 36 * (2 * (5 * 4096 + 2 * 1024 + 4 * 12288) + 8 * 4096) + 16 * 4096
    assert cost.checkpointed < cost.plain / 6


def test_engine_and_worker_fit_into_their_gpus_together() -> None:
    for size, memory in (("0.6B", 24), ("4B", 48), ("8B", 80)):
        found = on(memory, 1, demand(size))
        assert found.engine.total + found.worker.total <= memory * GIB
        assert found.engine.weights >= 2 * SIZES[size] - 1
        assert found.utilization is not None and found.engine.total <= found.utilization * memory * GIB
        assert found.kv_tokens >= 16 * 4608  # all rollouts of a step


def test_layers_are_checkpointed_where_memory_is_short() -> None:
    assert not on(80, 2, demand("0.6B")).checkpointed
    assert on(24, 1, demand("4B", tokens=1024)).checkpointed
    assert on(80, 2, demand("0.6B", checkpointing=True)).checkpointed


def test_the_longest_answers_fit_and_longer_ones_do_not() -> None:
    machine = Machine("cuda", 24 * GIB, 2)
    placement = place(["0", "1"], replicas=1, workers=1, heads=32)
    longest = longest_answers(demand("8B"), machine, placement)
    assert 1024 < longest < 40960 - 512
    fit(demand("8B", longest), machine, placement)
    with pytest.raises(BadInputError, match=r"does not fit: an engine needs .* GiB on each device, a worker"):
        fit(demand("8B", longest + 1), machine, placement)
    assert longest_answers(demand("0.6B"), Machine("cuda", 80 * GIB, 2), placement) == 40960 - 512


def test_more_gpus_are_asked_for_only_where_they_help() -> None:
    with pytest.raises(BadInputError, match="add a GPU") as found:
        on(24, 1, demand("8B"))
    assert found.value.param == "gpus"
    with pytest.raises(BadInputError, match=r"use \d\d GiB, shorter rollouts or a smaller policy") as found:
        on(48, 8, demand("32B"))
    assert found.value.param == "gpu_memory"


def test_a_step_takes_as_long_as_its_reads_and_its_arithmetic() -> None:
    wanted = demand("4B")
    machine, placement = Machine("cuda", 80 * GIB, 2), place(["0", "1"], replicas=1, workers=1, heads=32)
    fitted = fit(wanted, machine, placement)
    step = step_time(wanted, machine, placement, fitted, CARDS["h100"].speed)
    # 4,096 times, all weights and the keys and values of 16 sequences of 2,560 tokens are read at 60% of 3.35 TB/s.
    read = 2 * SIZES["4B"] + 16 * (512 + 2048) * 2 * 36 * 1024 * 2
    assert step.sampling == pytest.approx(4096 * read / (0.6 * 3.35e12), rel=0.01)
    # Each of 4 prompts once and each answer, forward and backward, 35% of 989 TFLOP/s.
    tokens = 4 * 512 + 16 * 4096
    flops = tokens * 2 * (2 * SIZES["4B"] + 4 * 36 * 4096 * 2304)
    assert step.training == pytest.approx(flops / (0.35 * 989e12), rel=0.01)
    assert step.total == step.sampling + step.training
    longer = step_time(demand("4B", 8192), machine, placement, fitted, CARDS["h100"].speed)
    assert longer.sampling > 2 * step.sampling


def test_sampling_and_training_overlap_only_on_devices_of_their_own() -> None:
    wanted = demand("4B", staleness=1)
    for gpus, overlapped in ((1, False), (2, True)):
        machine, placement = Machine("cuda", 80 * GIB, 2), place(GPUS[:gpus], replicas=1, workers=1, heads=32)
        step = step_time(wanted, machine, placement, fit(wanted, machine, placement), CARDS["h100"].speed)
        longer, sum_of_both = max(step.sampling, step.training), step.sampling + step.training
        assert step.total == (longer if overlapped else sum_of_both)
    assert demand_of(Settings.model_validate({"rl": {"staleness": 1}}), wanted.shape).staleness == 1


@pytest.mark.parametrize(
    ("tables", "asked", "tokens"),
    [
        ({}, {}, (512, 4096)),
        ({}, {"tokens": 100}, (512, 100)),
        ({"rl": {"max_tokens": 100}, "reheat": {"max_tokens": 200}}, {}, (512, 200)),
        ({"rl": {"max_tokens": 8192}}, {}, (512, 8192)),  # a reheat's length is still to be found
        ({"policy": {"max_model_len": 3000}}, {}, (1500, 1500)),  # what is served bounds both
        ({"policy": {"max_model_len": 3000}}, {"prompt_tokens": 600}, (600, 4096)),  # `reheatd plan` says what to serve
    ],
)
def test_a_length_that_is_still_to_be_found_is_assumed(
    tables: dict[str, Any], asked: dict[str, int], tokens: tuple[int, int]
) -> None:
    rollouts = demand_of(Settings.model_validate(tables), demand("4B").shape, **asked).rollouts
    assert (rollouts.prompt_tokens, rollouts.completion_tokens) == tokens


def test_no_more_is_assumed_than_half_of_what_a_policy_was_made_for() -> None:
    short = PolicyShape.read({**PUBLISHED[SIZES["0.6B"]], "max_position_embeddings": 600})
    rollouts = demand_of(Settings(), short).rollouts
    assert (rollouts.prompt_tokens, rollouts.completion_tokens) == (300, 300)
