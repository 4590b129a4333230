"""The command line and the environment with which vLLM is started, for the CPU and the CUDA build."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from reheatd.config import Settings
from reheatd.engine.chat_template import template_arguments
from reheatd.engine.credentials import KEY_CHECK, EngineCredentials
from reheatd.engine.number_format import engine_format
from reheatd.errors import ConfigError
from reheatd.names import BASE_MODEL_NAME
from reheatd.options import LORA_TARGETS
from reheatd.plan.gpu_plan import EngineGpus
from reheatd.plan.placement import asked_split
from reheatd.process.children import SHARED_CORES_ENV, python_module
from reheatd.process.gpus import VISIBLE_ENV, visible_gpus
from reheatd.tap.wire import ADDRESS_ENV

Device = Literal["cpu", "cuda"]
T = TypeVar("T")

TAP = "reheatd.tap.plugin:EntropyTap"
CPU_WORKER = "reheatd.engine.cpu_worker.SeededCPUWorker"
ONE_PROCESS = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""Executor that runs the CPU engine's scheduler and model in one process. By default vLLM gives each its own, and the
scheduler's process spins while the model computes: on two cores it takes as much of them as the model. One process also
starts faster than two."""
STEP_TOKENS = 160
"""Largest number of tokens in one step of the CPU engine, which limits how much many prompts at once delay the next
token."""
LOOPBACK_ENV = {"VLLM_HOST_IP": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""Where the processes of one engine talk to each other. Without this, gloo listens on a dozen ports of the address that
the machine's name stands for, even if there is only one process."""
MANY_MACHINES = ("nnodes", "data-parallel-address", "ray", "master-addr", "node-rank")
"""Parts of vLLM's arguments for an engine that is spread over several machines."""
BLOCK_TOKENS = 32
"""Tokens of a block in the CPU engine's prefix cache; with vLLM's default of 128, a short prompt is never cached."""
PROMPT_PART_TOKENS = BLOCK_TOKENS // 2 + 1
"""Tokens of one prompt that go into a step of the CPU engine beside other requests, or its fair share of the step if
that is more. A prompt that is alone is not divided. A step that scores 80 tokens takes twice as long as one that
decodes 8. With one token more than half a block, a completion of the proof of delivery, which is one that fills a block
and goes beyond it, takes two steps and not three."""


@dataclass(frozen=True)
class EngineCommand:
    """The command line and the environment of an engine."""

    argv: list[str]
    env: dict[str, str] = field(repr=False)
    """Holds the engine's key; do not log it."""


def detect_device() -> Device:
    """Returns `cuda` if an NVIDIA driver lists a GPU that this process may use, else `cpu`."""
    return "cuda" if visible_gpus() else "cpu"


def engine_command(
    settings: Settings,
    model_path: Path,
    port: int,
    device: Device,
    *,
    credentials: EngineCredentials | None = None,
    tap_address: str | None = None,
    replica: tuple[int, int] = (0, 1),
    gpus: EngineGpus | None = None,
) -> EngineCommand:
    """The command that serves `model_path` on `port` with adapter slots.

    Args:
        credentials: What requests to the engine must prove; None for an engine that answers everybody.
        tap_address: host:port that the entropy tap sends to; None for an engine without a tap. A tap needs credentials.
            See `taps`.
        replica: Index of this engine and number of engines on this machine; each gets its share of the cores.
        gpus: What the engine gets of the GPUs; None for `cpu` only.
    """
    engine = settings.engine
    argv = python_module(
        "reheatd.engine.server",
        "--model", str(model_path),
        "--served-model-name", BASE_MODEL_NAME,
        "--host", engine.host,
        "--port", str(port),
        "--dtype", engine_format(engine.dtype, device).name,
        "--max-model-len", str(settings.policy.length),
        "--max-num-seqs", str(engine.max_num_seqs),
        "--max-logprobs", str(engine.max_logprobs),
        "--enable-lora",
        "--max-loras", str(engine.max_loras),
        # As many adapters in memory as slots: if there were more, vLLM would evict adapters without a word and read
        # files again at any time.
        "--max-cpu-loras", str(engine.max_loras),
        "--max-lora-rank", str(engine.max_lora_rank),
        # The LM head is left out, because its LoRA path runs at full rank in every step, and breaks prompt logprobs on
        # the CPU.
        "--lora-target-modules", *LORA_TARGETS,
        # Sampling defaults are those of the OpenAI API, not the model folder's, because entropy is measured at
        # temperature 1.
        "--generation-config", "vllm",
        *template_arguments(settings.policy),
        "--shutdown-timeout", str(int(settings.server.drain_timeout_s)),
        "--disable-uvicorn-access-log",
    )  # fmt: skip
    env = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75",
    }
    if not any(word in argument for argument in engine.extra_args for word in MANY_MACHINES):
        env |= {name: os.environ.get(name, value) for name, value in LOOPBACK_ENV.items()}
    if device == "cpu":
        argv += [
            "--enforce-eager",
            "--worker-cls", CPU_WORKER,
            "--enable-chunked-prefill",
            "--max-num-batched-tokens", str(max(STEP_TOKENS, engine.max_num_seqs)),
            "--long-prefill-token-threshold", str(PROMPT_PART_TOKENS),
            "--long-prefill-token-threshold-adaptive",
            "--block-size", str(BLOCK_TOKENS),
            "--kv-cache-memory-bytes", str(engine.kv_cache_bytes),
        ]  # fmt: skip
        # Even with --enforce-eager, vLLM compiles a small function of its sampler, for which it needs a C++ compiler.
        env["TORCHDYNAMO_DISABLE"] = "1"
        env |= SHARED_CORES_ENV
        cores = env["VLLM_CPU_OMP_THREADS_BIND"] = engine.cpu_threads_bind or _cores_of(*replica)
        # A user who binds threads or splits the model decides about processes, too.
        if engine.cpu_threads_bind is None and not any("parallel" in argument for argument in engine.extra_args):
            argv += ["--distributed-executor-backend", ONE_PROCESS]
            env |= {
                "VLLM_WORKER_MULTIPROC_METHOD": "fork",  # see reheatd.engine.server
                "OMP_NUM_THREADS": str(cores.count(",") + 1),
                "OMP_PLACES": f"{{{cores}}}",
                "OMP_PROC_BIND": "true",
            }
    else:
        if gpus is None:
            raise ValueError("an engine on GPUs has to be told which")
        argv += ["--gpu-memory-utilization", str(gpus.utilization)]
        if gpus.gpus:
            env[VISIBLE_ENV] = ",".join(gpus.gpus)
        if len(gpus.gpus) > 1 and asked_split(engine.extra_args) is None:
            argv += ["--tensor-parallel-size", str(len(gpus.gpus))]
    if credentials is not None:
        argv += ["--middleware", KEY_CHECK]
        env |= credentials.engine_env()
    if tap_address is not None:
        argv += ["--logits-processors", TAP]
        env[ADDRESS_ENV] = tap_address
    return EngineCommand([*argv, *engine.extra_args], env)


def taps(settings: Settings, device: Device) -> bool:
    """Whether the engine gets an entropy tap.

    With `auto` it gets one on the CPU; on a GPU, where the tap has not been run yet, it must be asked for.

    Raises:
        ConfigError: `entropy.tap` is `on`, but the engine decodes speculatively.
    """
    wanted = settings.entropy.tap
    speculates = any("speculative" in argument for argument in settings.engine.extra_args)
    if wanted == "on" and speculates:
        raise ConfigError(
            "entropy.tap = 'on': vLLM allows no logits processors beside speculative decoding; set it to 'off'",
            param="entropy.tap",
        )
    return wanted == "on" or (wanted == "auto" and device == "cpu" and not speculates)


def _cores_of(index: int, count: int) -> str:
    """A replica's share of the cores that this process may use.

    A single replica gets all of them; vLLM's automatic choice would keep one back, which is half of a two-core machine.
    """
    cores = sorted(os.sched_getaffinity(0))
    share = _share(cores, index, count) or [cores[index % len(cores)]]
    return ",".join(map(str, share))


def _share(things: list[T], index: int, count: int) -> list[T]:
    return things[index * len(things) // count : (index + 1) * len(things) // count]
