"""The memory of the GPUs that child processes may use."""

import re
import shutil
import subprocess

from reheatd.errors import ConfigError
from reheatd.process.gpus import Gpu

_PART = re.compile(r"MIG \d+g\.(\d+)gb")


def gpu_memory_bytes(gpus: list[Gpu]) -> int:
    """Memory of the smallest of these GPUs. That of a MIG part is in its name.

    Raises:
        ConfigError: There is no nvidia-smi, or it does not say how large they are.
    """
    if not gpus or shutil.which("nvidia-smi") is None:
        raise _unknown()
    query = ["nvidia-smi", "--query-gpu=uuid,memory.total", "--format=csv,noheader,nounits"]
    printed = subprocess.run(query, capture_output=True, text=True).stdout
    rows = [line.split(",") for line in printed.splitlines() if line.startswith("GPU-")]
    whole = {uuid.strip(): mib.strip() for uuid, mib in rows}
    sizes = [_part_bytes(gpu) or _mebibytes(whole.get(gpu.uuid, "")) for gpu in gpus]
    known = [size for size in sizes if size is not None]
    if len(known) < len(gpus):
        raise _unknown()
    return min(known)


def _unknown() -> ConfigError:
    return ConfigError(
        "nvidia-smi does not say how much memory the GPUs have; set engine.gpu_memory_utilization to the engine's "
        "share, e.g. to 0.6",
        param="engine.gpu_memory_utilization",
    )


def _mebibytes(number: str) -> int | None:
    return int(number) << 20 if number.isdecimal() else None


def _part_bytes(gpu: Gpu) -> int | None:
    found = _PART.search(gpu.name)
    return int(found[1]) << 30 if found else None
