"""The command line that starts vLLM."""

import os
import sys
from pathlib import Path

import pytest

from reheatd.config import Settings
from reheatd.engine.launch import Device, EngineCommand, engine_command, taps
from reheatd.errors import ConfigError
from reheatd.plan.gpu_plan import EngineGpus
from tests.known_settings import known_settings


def command(device: Device = "cpu", gpus: tuple[str, ...] = ("0",), **engine: object) -> EngineCommand:
    settings = known_settings(engine=engine)
    share = EngineGpus(gpus, 0.4) if device == "cuda" else None
    return engine_command(settings, Path("/models/m"), 4321, device, gpus=share)


def values(argv: list[str], flag: str) -> list[str]:
    start = argv.index(flag) + 1
    rest = argv[start:]
    return rest[: next((index for index, word in enumerate(rest) if word.startswith("--")), len(rest))]


def test_adapter_endpoints_are_open_on_loopback_only() -> None:
    started = command()
    assert values(started.argv, "--host") == ["127.0.0.1"]
    assert started.env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    assert started.argv[0] == sys.executable


def test_the_processes_of_an_engine_talk_on_loopback_unless_it_is_spread_over_machines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert command("cuda").env["GLOO_SOCKET_IFNAME"] == "lo"
    assert "GLOO_SOCKET_IFNAME" not in command("cuda", extra_args=["--nnodes", "2"]).env
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth1")
    assert command().env["GLOO_SOCKET_IFNAME"] == "eth1"


def test_the_lm_head_gets_no_adapter_slots() -> None:
    assert values(command().argv, "--lora-target-modules") == ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]


def test_no_loaded_adapter_lacks_a_place_in_memory() -> None:
    argv = command(max_loras=9).argv
    assert values(argv, "--max-loras") == ["9"]
    assert int(values(argv, "--max-cpu-loras")[0]) >= 9


def test_the_cpu_engine_uses_every_core_it_may() -> None:
    cores = {int(core) for core in command().env["VLLM_CPU_OMP_THREADS_BIND"].split(",")}
    assert cores == os.sched_getaffinity(0)
    assert command(cpu_threads_bind="0-1").env["VLLM_CPU_OMP_THREADS_BIND"] == "0-1"


def test_the_cpu_engine_is_one_process_that_computes_on_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 4, 6})
    assert values(command().argv, "--distributed-executor-backend")[0].endswith("UniProcExecutor")
    env = share(1, 2)
    assert (env["OMP_NUM_THREADS"], env["OMP_PLACES"]) == ("2", "{4,6}")
    assert env["VLLM_WORKER_MULTIPROC_METHOD"] == "fork"
    # Who binds threads or splits the model decides about processes, too.
    for own in (command(cpu_threads_bind="0-1"), command(extra_args=["--tensor-parallel-size", "2"])):
        assert "--distributed-executor-backend" not in own.argv and "OMP_NUM_THREADS" not in own.env
        assert "VLLM_WORKER_MULTIPROC_METHOD" not in own.env


def test_prompts_are_prefilled_in_parts_on_the_cpu() -> None:
    argv = command().argv
    assert int(values(argv, "--long-prefill-token-threshold")[0]) < int(values(argv, "--max-num-batched-tokens")[0])
    assert values(argv, "--worker-cls") == ["reheatd.engine.cpu_worker.SeededCPUWorker"]  # or a seed kills the engine
    # vLLM refuses a step that has no room for a token of each sequence.
    assert values(command(max_num_seqs=500).argv, "--max-num-batched-tokens") == ["500"]


def test_cuda_gets_none_of_the_cpu_settings() -> None:
    cuda = command("cuda")
    assert values(cuda.argv, "--gpu-memory-utilization") == ["0.4"]
    assert not {"--enforce-eager", "--block-size", "--kv-cache-memory-bytes", "--worker-cls"} & set(cuda.argv)
    assert "--distributed-executor-backend" not in cuda.argv
    assert not [name for name in cuda.env if "CPU" in name]


def test_an_engine_sees_its_own_gpus_and_is_split_over_all_of_them() -> None:
    two = command("cuda", ("4", "5"))
    assert two.env["CUDA_VISIBLE_DEVICES"] == "4,5" and values(two.argv, "--tensor-parallel-size") == ["2"]
    assert "--tensor-parallel-size" not in command("cuda", ("4",)).argv
    asked = command("cuda", ("4", "5"), extra_args=["--pipeline-parallel-size", "2"])
    assert asked.env["CUDA_VISIBLE_DEVICES"] == "4,5" and "--tensor-parallel-size" not in asked.argv


def test_extra_arguments_come_last_so_that_they_win() -> None:
    argv = command(extra_args=["--max-model-len", "512"]).argv
    assert argv[-2:] == ["--max-model-len", "512"]


def test_the_tap_is_loaded_where_it_can_work() -> None:
    assert "--logits-processors" not in command().argv
    started = engine_command(known_settings(), Path("/models/m"), 4321, "cpu", tap_address="127.0.0.1:5")
    assert values(started.argv, "--logits-processors") == ["reheatd.tap.plugin:EntropyTap"]
    assert started.env["REHEATD_TAP_ADDRESS"] == "127.0.0.1:5"
    assert taps(Settings(), "cpu")
    assert not taps(Settings(), "cuda")
    assert taps(Settings.model_validate({"entropy": {"tap": "on"}}), "cuda")
    assert not taps(Settings.model_validate({"entropy": {"tap": "off"}}), "cpu")


def test_a_tap_that_is_asked_for_where_it_cannot_work_is_an_error() -> None:
    speculating = {"extra_args": ["--speculative-config", "{}"]}
    assert not taps(Settings.model_validate({"engine": speculating}), "cpu")
    with pytest.raises(ConfigError, match="speculative decoding"):
        taps(Settings.model_validate({"entropy": {"tap": "on"}, "engine": speculating}), "cpu")


def share(index: int, count: int, **engine: object) -> dict[str, str]:
    settings = known_settings(engine=engine)
    return engine_command(settings, Path("/m"), 1, "cpu", replica=(index, count)).env


def test_engines_on_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2, 4, 6, 8})
    bound = [share(index, 2)["VLLM_CPU_OMP_THREADS_BIND"] for index in range(2)]
    assert bound == ["0,2", "4,6,8"]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert [share(index, 3)["VLLM_CPU_OMP_THREADS_BIND"] for index in range(3)] == ["3", "3", "5"]
    assert share(1, 2, cpu_threads_bind="7")["VLLM_CPU_OMP_THREADS_BIND"] == "7"
