"""Free memory of a device, and how running out of it looks."""

from collections.abc import Iterator
from pathlib import Path

import torch


def free_bytes(device: torch.device, root: Path = Path("/")) -> int:
    """Bytes that this process can still allocate on the device.

    On a CPU, this is what the kernel calls available, or what the control group of the process leaves if that is less.
    On a GPU, memory that torch keeps for itself counts as free.

    Args:
        root: Folder in which `proc` and `sys` are.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    lines = (root / "proc/meminfo").read_text().splitlines()
    available = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    return max(0, min([available, *_left_by_groups(root)]))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed. torch has an exception of its own for GPUs only."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def _left_by_groups(root: Path) -> Iterator[int]:
    """What each control group with a limit leaves, from the process's own up to the outermost, in bytes.

    Inside a container, the path of the process may be one that only the host has; the groups that are there count.
    """
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, limit, usage, cache = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif controllers == "memory":
            mount = root / "sys/fs/cgroup/memory"
            limit, usage, cache = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        inner = mount / path.lstrip("/")
        for group in [inner, *inner.parents]:
            if (group / limit).exists() and (most := (group / limit).read_text().strip()) != "max":
                stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                yield int(most) - int((group / usage).read_text()) + int(stat.get(cache, 0))
            if group == mount:
                break
