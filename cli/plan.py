"""`reheatd plan`: says what a policy needs in memory and time, whether that fits, and what to set."""

import json
import subprocess
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import psutil
import typer
from rich.markup import escape

from cli import render
from cli.options import ConfigOption, JsonOption
from reheatd.config import Settings, load_settings
from reheatd.config_tables import own_share
from reheatd.engine.number_format import cpu_format
from reheatd.engine.policy_model import read_configuration
from reheatd.engine.supported import unsupported
from reheatd.errors import BadInputError, MissingExtraError
from reheatd.plan.demand import PROMPT_TOKENS, demand_of, is_assumed
from reheatd.plan.fit import CUDA_ITEMSIZE, GIB, Demand, Fit, Machine, fit, longest_answers, step_time
from reheatd.plan.gpu_memory import gpu_memory_bytes
from reheatd.plan.placement import Placement, asked_split, place
from reheatd.plan.shape import PolicyShape
from reheatd.plan.speed import CARDS, Speed, card_of
from reheatd.process.children import python_module
from reheatd.process.gpus import visible_gpus


@dataclass(frozen=True)
class Device:
    """The machine that is planned for."""

    machine: Machine
    gpus: int
    speed: Speed
    name: str


def plan(
    model: Annotated[
        str | None, typer.Option(help="Folder or Hugging Face id of the policy; default: policy.model.")
    ] = None,
    gpus: Annotated[int | None, typer.Option(help="Number of GPUs; default: those here, or 1.", min=1)] = None,
    gpu_memory: Annotated[
        float | None,
        typer.Option(help="Memory of each GPU, in GiB; default: that of the GPUs here, or 80.", min=1),
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help=f"GPU whose speed counts: {', '.join(CARDS)}; default: by its memory.")
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(help="Tokens of the longest answers; default: those of the jobs, or at most 4096.", min=1),
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of the longest prompts.", min=1)] = PROMPT_TOKENS,
    config: ConfigOption = None,
    json_output: JsonOption = False,
) -> None:
    """Say what the policy will need in memory and time per step of RL, and what to set.

    Reads only the model's `config.json`. Exits with 2 if the policy does not fit.
    """
    settings = load_settings(config)
    name = model or settings.policy.model
    contents = read_configuration(name, "--model" if model else "policy.model")
    if reason := unsupported(contents):
        raise BadInputError(f"{name} is not supported: {reason}; docs/models.md lists what is", param="policy.model")
    shape = PolicyShape.read(contents)
    device = _device(settings, gpus, gpu_memory, gpu)
    demand = demand_of(settings, shape, prompt_tokens=prompt_tokens, tokens=tokens)
    placement = place(
        [str(index) for index in range(device.gpus)],
        replicas=settings.engine.replicas,
        workers=demand.workers,
        heads=shape.heads,
        split=asked_split(settings.engine.extra_args),
    )
    fitted = fit(demand, device.machine, placement)
    assumed = tokens is None and is_assumed(settings)
    _print(name, demand, device, placement, fitted, assumed=assumed, json_output=json_output)


def _device(settings: Settings, gpus: int | None, memory_gib: float | None, name: str | None) -> Device:
    if name is not None and name not in CARDS:
        raise BadInputError(f"--gpu = {name!r} is not known; use one of {', '.join(CARDS)}", param="gpu")
    there = visible_gpus() if settings.engine.device != "cpu" else []
    if gpus is None and memory_gib is None and name is None and not there:
        return _cpu()
    if name is not None:
        card, memory = CARDS[name], CARDS[name].memory_gb * GIB
    else:
        memory = gpu_memory_bytes(there) if there else 80 * GIB
        card = card_of(memory_gib or memory / GIB)
    if memory_gib is not None:
        memory = int(memory_gib * GIB)
    count = gpus or len(there) or 1
    itemsize = CUDA_ITEMSIZE[settings.engine.dtype]
    what = f"{count} x {memory / GIB:.0f} GiB, with the speed of {card.name}"
    return Device(Machine("cuda", memory, itemsize), count, card.speed, what)


def _cpu() -> Device:
    done = subprocess.run(python_module("workers.cpu_speed"), capture_output=True, text=True)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no output"]
        raise MissingExtraError(
            f"the speed of this CPU cannot be measured ({last[0]}); pip install 'reheatd[worker]', or plan for GPUs "
            "with --gpus 1 --gpu-memory 80"
        )
    measured = json.loads(done.stdout)
    memory = psutil.virtual_memory().total
    speed = Speed(measured["flops"], measured["bandwidth"])
    what = (
        f"this CPU: {memory / GIB:.0f} GiB, {speed.flops / 1e9:.0f} GFLOP/s in {cpu_format().name}, "
        f"{speed.bandwidth / 1e9:.0f} GB/s"
    )
    return Device(Machine("cpu", memory, measured["itemsize"]), 0, speed, what)


@render.json_or_text
def _print(
    name: str, demand: Demand, device: Device, placement: Placement, fitted: Fit, *, assumed: bool
) -> render.JsonThenText:
    rollouts, shape = demand.rollouts, demand.shape
    step = step_time(demand, device.machine, placement, fitted, device.speed)
    longest = longest_answers(demand, device.machine, placement)
    settings = recommended(demand, fitted, keeps_length=assumed)
    yield {
        "model": name,
        "parameters": shape.parameters,
        "placement": asdict(placement),
        "engine": {**asdict(fitted.engine), "total": fitted.engine.total},
        "worker": {**asdict(fitted.worker), "total": fitted.worker.total} if demand.workers else None,
        "kv_tokens": fitted.kv_tokens,
        "checkpointed": fitted.checkpointed,
        "step_s": step.total,
        "sampling_s": step.sampling,
        "training_s": step.training,
        "answer_tokens": rollouts.completion_tokens,
        "answer_tokens_assumed": assumed,
        "longest_answers": longest,
        "settings": settings,
    }
    print_ = render.console.print
    print_(f"policy     {escape(name)}: {shape.parameters / 1e9:.2f} billion weights")
    print_(f"machine    {device.name}")
    print_(f"rollouts   {rollouts.count} of {rollouts.prompt_tokens} + {rollouts.completion_tokens} tokens per step")
    if assumed:
        print_(
            f"           {rollouts.completion_tokens} tokens are assumed: max_tokens is auto, so the first job finds "
            "how long answers are; --tokens plans for another number"
        )
    print_("")
    table = render.table("GiB", *_columns(demand, placement))
    for part in ("weights", "adapters", "kv_cache", "computation", "runtime", "total"):
        needs = [fitted.engine, fitted.worker] if demand.workers else [fitted.engine]
        table.add_row(part.replace("_", " "), *(f"{getattr(each, part) / GIB:.2f}" for each in needs))
    print_(table)
    at_once = min(own_share(demand.max_num_seqs), fitted.kv_tokens // rollouts.tokens)
    print_(f"\nThe KV cache holds {fitted.kv_tokens} tokens, which is {at_once} of these rollouts at once.")
    if demand.workers:
        how = "with" if fitted.checkpointed else "without"
        print_(f"Training takes {fitted.positions} tokens at a time, {how} checkpointed layers.")
    how = ", at the same time" if step.overlapped else ""
    print_(
        f"A step takes about {step.total:.0f} s: {step.sampling:.0f} s of sampling and {step.training:.0f} s of "
        f"training{how}."
    )
    print_(f"The longest answers that fit have {longest} tokens.")
    if placement.unused:
        print_(f"{len(placement.unused)} GPUs are not used; a larger engine.replicas uses them.")
    print_("\nSet in reheatd.toml:")
    for section, values in settings.items():
        print_(escape(f"[{section}]"))
        for key, value in values.items():
            print_(f"{key} = {json.dumps(value)}")


def recommended(demand: Demand, fitted: Fit, *, keeps_length: bool = False) -> dict[str, dict[str, Any]]:
    """Settings by section with which the daemon does what was planned.

    Args:
        keeps_length: Whether jobs go on finding the length of answers themselves.
    """
    rollouts = demand.rollouts
    engine: dict[str, Any] = {}
    if fitted.utilization is not None:
        engine["gpu_memory_utilization"] = fitted.utilization
    return {
        "policy": {"max_model_len": rollouts.tokens},
        **({} if keeps_length else {"rl": {"max_tokens": rollouts.completion_tokens}}),
        **({"engine": engine} if engine else {}),
    }


def _columns(demand: Demand, placement: Placement) -> list[str]:
    if not placement.workers:
        return ["engine", "worker"] if demand.workers else ["engine"]
    split = len(placement.engines[0])
    engine = f"engine, GPU {', '.join(placement.engines[0])}" + (" each" if split > 1 else "")
    return [engine, f"worker, GPU {placement.workers[0]}"]
