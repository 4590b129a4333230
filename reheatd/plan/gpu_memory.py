"""The memory of the GPUs that child processes may use."""

import re
import subprocess

from reheatd.process.gpus import Gpu

_PART = re.compile(r"MIG \d+g\.(\d+)gb")


def gpu_memory_bytes(gpus: list[Gpu]) -> int:
    """Memory of the smallest of these GPUs. That of a MIG part is in its name.

    Raises:
        subprocess.CalledProcessError: nvidia-smi lists GPUs, but does not say how large they are.
    """
    query = ["nvidia-smi", "--query-gpu=uuid,memory.total", "--format=csv,noheader,nounits"]
    printed = subprocess.run(query, capture_output=True, text=True, check=True).stdout
    whole = {uuid.strip(): int(mib) << 20 for uuid, mib in (line.split(",") for line in printed.splitlines())}
    return min(_part_bytes(gpu) or whole[gpu.uuid] for gpu in gpus)


def _part_bytes(gpu: Gpu) -> int | None:
    found = _PART.search(gpu.name)
    return int(found[1]) << 30 if found else None
