"""The child process of `workers.rewards.verifier`: it reads requests on stdin and writes one reply per line.

Before it loads the reward, it gives up all files that the reward does not need; see `workers.rewards.reach`.
"""

import ctypes
import json
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

from reheatd.errors import BadInputError
from workers.rewards import find_reward, load_reward
from workers.rewards.calling import Call
from workers.rewards.judged import Judged
from workers.rewards.reach import confine, hint

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serves one reward until stdin ends.

    The arguments are the reward's name, the parent's process id, and the files and folders that the reward may read
    besides its code. The environment's TMPDIR is the folder that it may write into.
    """
    name, parent, *readable = sys.argv[1:]
    _die_with_parent(int(parent))
    # Only replies go to the real stdout; whatever the reward prints goes to stderr.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def reply(message: dict[str, object]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    try:
        confine(find_reward(name).module, map(Path, readable), Path(os.environ["TMPDIR"]))
        call = Call.of(load_reward(name))
    except BadInputError as error:
        reply({"error": error.message})
        return
    reply({"ready": True, "needs": call.names, "checks": call.checks})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            reply({"unusable": _fault(call, request["check"])} if "check" in request else _scored(call, request))
        except Exception as error:  # an error of the reward on one completion must not end the run
            reply({"error": f"{type(error).__name__}: {error}{hint(error)}"})


def _scored(call: Call, request: dict[str, Any]) -> dict[str, object]:
    value = call(request["completion"], request["answer"], request.get("prompt", []), request.get("record", {}))
    if not math.isfinite(value):
        return {"not_finite": str(float(value))}
    said: dict[str, object] = {"said": str(value.said)} if isinstance(value, Judged) else {}
    return {"reward": float(value), **said}


def _fault(call: Call, answer: str) -> str | None:
    """What is wrong with an answer; None if the reward can use it."""
    try:
        call.check(answer)
    except BadInputError as error:
        return error.message
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None


def _die_with_parent(parent: int) -> None:
    """Makes this process end with its parent on Linux, so that a hanging reward ends even if the worker is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit(1)


if __name__ == "__main__":
    main()
