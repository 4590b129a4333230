"""Runs vLLM's OpenAI-compatible server: `python -m reheatd.engine.server ARGUMENTS`.

The `vllm` command of the CPU build looks its own metadata up under another distribution's name and fails, so the
server's entry point is called directly; both builds have it.
"""

import sys

from vllm.entrypoints.launchers.api_server.entry import main
from vllm.platforms import current_platform

from reheatd.engine import cpu_lora

if __name__ == "__main__":
    if current_platform.is_cpu():
        try:
            cpu_lora.require()
        except RuntimeError as error:
            sys.exit(f"reheatd: {error}")
    main()
