"""Which GPUs the processes of a machine get, and how much of their memory."""

import json
from pathlib import Path
from typing import Any

import pytest

from reheatd.config import Settings
from reheatd.errors import BadInputError, ConfigError
from reheatd.plan.gpu_plan import GpuPlan, plan_gpus
from reheatd.plan.placement import Placement, asked_split, place
from tests.unit.test_plan_shape import PUBLISHED

QWEN3_4B, QWEN3_8B = sorted(PUBLISHED)[1:3]


@pytest.mark.parametrize(
    ("gpus", "replicas", "workers", "expected"),
    [
        (1, 1, 1, Placement(engines=(("0",),), workers=("0",))),
        (1, 1, 0, Placement(engines=(("0",),), workers=())),
        (2, 1, 1, Placement(engines=(("0",),), workers=("1",))),
        (2, 2, 1, Placement(engines=(("0",), ("1",)), workers=("1",))),
        (4, 1, 1, Placement(engines=(("0", "1"),), workers=("3",), unused=("2",))),
        (5, 1, 1, Placement(engines=(("0", "1", "2", "3"),), workers=("4",))),
        (8, 2, 2, Placement(engines=(("0", "1"), ("3", "4")), workers=("6", "7"), unused=("2", "5"))),
        (2, 1, 3, Placement(engines=(("0",),), workers=("1", "0", "0"))),
        (0, 2, 1, Placement(engines=((), ()), workers=())),
    ],
)
def test_workers_get_gpus_of_their_own_where_engines_leave_some(
    gpus: int, replicas: int, workers: int, expected: Placement
) -> None:
    names = [str(index) for index in range(gpus)]
    assert place(names, replicas=replicas, workers=workers, heads=32) == expected


def test_an_engine_takes_as_many_gpus_as_its_heads_can_be_divided_by() -> None:
    names = [str(index) for index in range(7)]
    assert place(names, replicas=1, workers=1, heads=9).engines == (("0", "1", "2"),)
    assert place(names, replicas=1, workers=1, heads=7).engines == (("0",),)


def test_what_vllm_is_told_about_gpus_counts() -> None:
    assert asked_split(["--tensor-parallel-size", "2", "--pipeline-parallel-size=2"]) == 4
    assert asked_split(["--max-num-seqs", "2"]) is None
    with pytest.raises(ConfigError, match=r"--tensor-parallel-size needs a number of GPUs"):
        asked_split(["--tensor-parallel-size"])
    names = ["0", "1", "2"]
    assert place(names, replicas=1, workers=1, heads=32, split=2) == Placement((("0", "1"),), ("2",))
    assert place(names, replicas=1, workers=1, heads=32, split=3).workers == ("2",)
    with pytest.raises(ConfigError, match=r"engine\.replicas = 2 of 2 GPUs each, but there are 3 GPUs"):
        place(names, replicas=2, workers=1, heads=32, split=2)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a machine with GPUs of this memory in MiB, and says what the daemon's processes get of it."""

    def plan(memory: str, parameters: int = QWEN3_4B, count: int = 1, **settings: Any) -> GpuPlan:
        program = tmp_path / "nvidia-smi"
        gpus = [f"GPU {index}: NVIDIA (UUID: GPU-{index})" for index in range(count)]
        sizes = [f"GPU-{index}, {memory}" for index in range(count)]
        listed, measured = ("\\n".join(lines) for lines in (gpus, sizes))
        program.write_text(f'#!/bin/sh\n[ "$1" = -L ] && printf "{listed}" || printf "{measured}"\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[parameters]))
        long = {"policy": {"max_model_len": 4608}, "rl": {"max_tokens": 4096}}
        return plan_gpus(Settings.model_validate(long | settings), tmp_path)

    return plan


def test_a_worker_and_an_engine_share_the_memory_of_one_gpu(machine: Any) -> None:
    large, small = machine("81559"), machine("46068")
    assert large.workers == ("0",) and large.engines[0].gpus == ("0",)
    for mib, found in ((81559, large), (46068, small)):
        # Each has room for the weights, 8 GB, and the engine for 16 rollouts of 4,608 tokens, 11 GB.
        assert found.engines[0].utilization * mib * 2**20 > 2 * QWEN3_4B + 16 * 4608 * 2 * 36 * 1024 * 2
        assert (0.95 - found.engines[0].utilization) * mib * 2**20 > 1.2 * 2 * QWEN3_4B


def test_an_engine_that_is_alone_on_its_gpu_takes_most_of_it(machine: Any) -> None:
    assert machine("24564", count=2).engines[0].utilization == 0.9
    assert machine("24564", workers={"count": 0}).engines[0].utilization == 0.9
    assert machine("24564", engine={"url": "http://elsewhere:8100"}).workers == ("0",)


def test_a_share_that_the_user_gives_is_kept(machine: Any) -> None:
    assert machine("24564", QWEN3_8B, engine={"gpu_memory_utilization": 0.35}).engines[0].utilization == 0.35


def test_what_cannot_fit_is_refused_before_anything_is_started(machine: Any) -> None:
    with pytest.raises(BadInputError, match=r"8\.2 billion weights.* does not fit.*add a GPU for the worker") as found:
        machine("24564", QWEN3_8B)
    assert found.value.param == "gpus"
    with pytest.raises(ConfigError, match=r"nvidia-smi does not say how much"):
        machine("24564", count=0)  # a GPU that no driver lists
    with pytest.raises(ConfigError, match=r"nvidia-smi does not say how much.*set engine\.gpu_memory_utilization"):
        machine("[N/A]")


@pytest.mark.parametrize("share", [0, 1, 1.5, "most"])
def test_a_share_that_is_none_is_refused(share: Any) -> None:
    with pytest.raises(ValueError, match="must be a number between 0 and 1, or 'auto'"):
        Settings.model_validate({"engine": {"gpu_memory_utilization": share}})
