"""Lists the NVIDIA GPUs that child processes may use; a GPU that MIG divides counts as its parts."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace

VISIBLE_ENV = "CUDA_VISIBLE_DEVICES"
_LINE = re.compile(
    r"^GPU (?P<index>\d+): (?P<gpu>.+) \(UUID: (?P<uuid>GPU-[^)]+)\)"
    r"|^\s+(?P<part>MIG .+): \(UUID: (?P<part_uuid>MIG-[^)]+)\)"
)


@dataclass(frozen=True)
class Gpu:
    """A whole GPU, or one MIG part of a GPU."""

    index: str
    """Index of the whole GPU."""
    name: str
    uuid: str
    selector: str
    """Name in CUDA_VISIBLE_DEVICES."""


def visible_gpus() -> list[Gpu]:
    """The GPUs that the driver lists; if CUDA_VISIBLE_DEVICES is set, only those it names, in its order."""
    return _let_through(parse_list(_list()))


def selectors() -> list[str]:
    """The GPUs' names for the CUDA_VISIBLE_DEVICES of child processes; if no driver lists any, its present entries."""
    there = parse_list(_list())
    if not there:
        return [selector for selector in os.environ.get(VISIBLE_ENV, "").split(",") if selector]
    return [gpu.selector for gpu in _let_through(there)]


def _let_through(there: list[Gpu]) -> list[Gpu]:
    chosen = os.environ.get(VISIBLE_ENV)
    if chosen is None:
        return there
    visible: list[Gpu] = []
    for selector in chosen.split(","):
        found = next((gpu for gpu in there if _selects(selector.strip(), gpu)), None)
        if found is None:
            break  # CUDA also ignores everything from the first name that it does not know.
        visible.append(replace(found, selector=selector.strip()))
    return visible


def parse_list(text: str) -> list[Gpu]:
    """The GPUs in the output of `nvidia-smi -L`, which has a line for each, with parts indented under their GPU."""
    whole: list[Gpu] = []
    parts: dict[str, list[Gpu]] = {}
    for found in filter(None, map(_LINE.match, text.splitlines())):
        if found["part"] is None:
            whole.append(Gpu(found["index"], f"GPU {found['index']}: {found['gpu']}", found["uuid"], found["index"]))
        elif whole:
            gpu, part = whole[-1], " ".join(found["part"].split())
            uuid = found["part_uuid"]
            parts.setdefault(gpu.index, []).append(Gpu(gpu.index, f"{gpu.name}, {part}", uuid, uuid))
    return [each for gpu in whole for each in parts.get(gpu.index, [gpu])]


def _list() -> str:
    if shutil.which("nvidia-smi") is None:
        return ""
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def _selects(selector: str, gpu: Gpu) -> bool:
    """Whether `selector` names the GPU, by its index or by the beginning of its UUID, as CUDA allows."""
    return selector == gpu.index or (selector.startswith(("GPU-", "MIG-")) and gpu.uuid.startswith(selector))
