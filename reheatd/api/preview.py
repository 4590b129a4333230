"""What a job would do that is asked for now, and what it would need, by the arithmetic of `reheatd plan`."""

import asyncio

import psutil

from reheatd.api.context import ApiContext
from reheatd.api.schemas import JobPlan, JobPreview
from reheatd.config import Settings
from reheatd.engine.number_format import engine_format
from reheatd.engine.policy_model import read_configuration
from reheatd.errors import BadInputError
from reheatd.jobs.contracts import RLSpec, TrainingRequest, TrainingSpec, step_limit
from reheatd.options import RLOptions
from reheatd.plan.demand import demand_of
from reheatd.plan.fit import CUDA_ITEMSIZE, GIB, Machine, fit, step_time
from reheatd.plan.gpu_memory import gpu_memory_bytes
from reheatd.plan.placement import asked_split, place
from reheatd.plan.shape import PolicyShape
from reheatd.plan.speed import card_of
from reheatd.process.gpus import visible_gpus

CPU_ITEMSIZE = {"bfloat16": 2, "float32": 4}
"""Bytes of a weight on a CPU by its number format."""


class PlanUnknownError(BadInputError):
    """What a job needs cannot be computed."""


async def job_preview(context: ApiContext, request: TrainingRequest) -> JobPreview:
    """The job that a request would start now; nothing is started.

    Raises:
        ReheatdError: As for `Controller.preview`.
    """
    spec = await context.controller.preview(request)
    waiting = len(context.controller.waiting()) + (context.controller.current_job is not None)
    steps = step_limit(spec)
    try:
        plan, problem = await asyncio.to_thread(plan_of, context.settings, spec), None
    except BadInputError as error:
        plan, problem = None, error.message
    return JobPreview(spec=spec, steps=steps, jobs_before=waiting, plan=plan, plan_problem=problem)


def plan_of(settings: Settings, spec: TrainingSpec) -> JobPlan:
    """What a job needs on this machine. Times are known of RL on GPUs alone; `reheatd plan` measures a CPU for them.

    Raises:
        BadInputError: It does not fit, or the engines run elsewhere.
    """
    if settings.engine.urls:
        raise PlanUnknownError("the engines run elsewhere, so their machine is not known here", param="engine.url")
    shape = PolicyShape.read(read_configuration(str(spec.model_path)))
    if isinstance(spec, RLSpec):
        options = RLOptions.model_validate({name: getattr(spec, name) for name in RLOptions.model_fields})
        settings = settings.model_copy(update={"rl": options})
    demand = demand_of(settings, shape, tokens=None if spec.max_tokens == "auto" else spec.max_tokens)
    gpus = visible_gpus() if settings.engine.device != "cpu" else []
    if gpus:
        machine = Machine("cuda", gpu_memory_bytes(gpus), CUDA_ITEMSIZE[settings.engine.dtype])
    else:
        itemsize = CPU_ITEMSIZE[engine_format(settings.engine.dtype, "cpu").name]
        machine = Machine("cpu", psutil.virtual_memory().total, itemsize)
    placement = place(
        [gpu.selector for gpu in gpus],
        replicas=settings.engine.replicas,
        workers=demand.workers,
        heads=shape.heads,
        split=asked_split(settings.engine.extra_args),
    )
    fitted = fit(demand, machine, placement)
    timed = isinstance(spec, RLSpec) and machine.device == "cuda"
    speed = card_of(machine.memory / GIB).speed
    step_s = step_time(demand, machine, placement, fitted, speed).total if timed else None
    return JobPlan(
        device=machine.device,
        device_bytes=machine.memory,
        engine_bytes=fitted.engine.total,
        worker_bytes=fitted.worker.total,
        kv_tokens=fitted.kv_tokens,
        tokens_at_once=fitted.positions,
        checkpointed=fitted.checkpointed,
        prompt_tokens=demand.rollouts.prompt_tokens,
        answer_tokens=demand.rollouts.completion_tokens,
        answer_tokens_assumed=spec.max_tokens == "auto",
        step_s=step_s,
    )
