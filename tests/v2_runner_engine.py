"""vLLM as accelerators get it, with the V2 model runner and steps scheduled in advance, on a CPU.

`python -m tests.v2_runner_engine ARGUMENTS`. The runner's kernels are written in Triton, which has an interpreter for
machines that have nothing to compile them for. vLLM asks whether Triton has a backend for the CPU; here it has. Slow,
and the same code in every other way.
"""

import os
from types import SimpleNamespace
from typing import Any

os.environ |= {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}

from triton.backends import backends

# Processes that vLLM spawns import this module too, before anything of vLLM.
backends["cpu"] = SimpleNamespace(driver=SimpleNamespace(is_active=lambda: True), compiler=None)  # pyright: ignore[reportArgumentType]

if __name__ == "__main__":
    from vllm.entrypoints.launchers.api_server.entry import main
    from vllm.platforms.cpu import CpuPlatform

    update_config = CpuPlatform.check_and_update_config

    def schedule_in_advance(vllm_config: Any) -> None:
        """On the CPU it is turned off, whatever was asked for."""
        update_config(vllm_config)
        vllm_config.scheduler_config.async_scheduling = True

    CpuPlatform.check_and_update_config = staticmethod(schedule_in_advance)  # pyright: ignore[reportAttributeAccessIssue]
    main()
