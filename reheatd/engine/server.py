"""Runs vLLM's OpenAI-compatible server: `python -m reheatd.engine.server ARGUMENTS`.

The `vllm` command of the CPU build looks up its own metadata under another distribution's name and fails. So the
server's entry point, which both builds have, is called directly.
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
