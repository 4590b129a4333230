"""Runs vLLM's OpenAI-compatible server: `python -m reheatd.engine.server ARGUMENTS`.

The `vllm` command of the CPU build looks up its own metadata under another distribution's name and fails. So the
server's entry point, which both builds have, is called directly.
"""

import os
import socket
import sys
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer
from vllm.entrypoints.launchers.api_server.entry import main
from vllm.platforms import current_platform

from reheatd.engine import cpu_lora
from reheatd.engine.chat_template import RAW, raw_template

START_METHOD_ENV = "VLLM_WORKER_MULTIPROC_METHOD"


def keep_start_method(method: str) -> None:
    """Lets vLLM start its core process by `method`, although its CPU platform sets `spawn` whatever the user chose.

    A core process that is forked need not import everything once more, which takes almost half of an engine's start.
    Several processes that compute have to be spawned, so that each is bound to cores of its own.
    """
    platform = type(current_platform)
    check = platform.check_and_update_config

    def check_and_keep(vllm_config: Any) -> None:
        check(vllm_config)
        os.environ[START_METHOD_ENV] = method

    platform.check_and_update_config = staticmethod(check_and_keep)


def let_go_of_sockets() -> None:
    """Takes a forked process off its parent's internet sockets, above all the one that the server listens on.

    If the core process held that too, the kernel would go on accepting connections after the server's death, and nobody
    would answer them. The numbers of the descriptors stay taken: the parent's objects, which were copied with it, will
    close them.
    """
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in [int(fd.name) for fd in Path("/proc/self/fd").iterdir() if fd.is_socket()]:
        with socket.socket(fileno=os.dup(number)) as held:
            internet = held.family in (socket.AF_INET, socket.AF_INET6)
        if internet:
            os.dup2(nothing, number, inheritable=False)
    os.close(nothing)


def write_out_raw(arguments: list[str]) -> list[str]:
    """The engine's arguments with the template in place of `--chat-template raw`."""
    if "--chat-template" not in arguments:
        return arguments
    place = arguments.index("--chat-template") + 1
    if arguments[place] != RAW:
        return arguments
    folder = arguments[arguments.index("--tokenizer" if "--tokenizer" in arguments else "--model") + 1]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    template = raw_template(tokenizer.decode(tokenizer("").input_ids))
    return [*arguments[:place], template, *arguments[place + 1 :]]


if __name__ == "__main__":
    sys.argv[1:] = write_out_raw(sys.argv[1:])
    if current_platform.is_cpu():
        if START_METHOD_ENV in os.environ:
            keep_start_method(os.environ[START_METHOD_ENV])
            os.register_at_fork(after_in_child=let_go_of_sockets)
        try:
            cpu_lora.require()
        except RuntimeError as error:
            sys.exit(f"reheatd: {error}")
    main()
