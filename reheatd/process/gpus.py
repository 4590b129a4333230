"""The NVIDIA GPUs that child processes of this one may use; a GPU cut up by MIG counts as its parts."""

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
    """A whole GPU, or one MIG part of it."""

    index: str
    """Of the whole GPU."""
    name: str
    uuid: str
    selector: str
    """What CUDA_VISIBLE_DEVICES calls it."""


def visible_gpus() -> list[Gpu]:
    """Those that the driver lists and CUDA_VISIBLE_DEVICES, if set, lets through, in its order."""
    return _let_through(parse_list(_list()))


def selectors() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs for child processes; its own entries where no driver lists any."""
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
            break  # CUDA, too, ignores the rest from the first one that it does not know.
        visible.append(replace(found, selector=selector.strip()))
    return visible


def parse_list(text: str) -> list[Gpu]:
    """The GPUs in the output of `nvidia-smi -L`: a line each, parts indented under their GPU."""
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
    """By index, or by the beginning of the UUID, as CUDA allows."""
    return selector == gpu.index or (selector.startswith(("GPU-", "MIG-")) and gpu.uuid.startswith(selector))
