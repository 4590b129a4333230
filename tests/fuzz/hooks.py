"""What Schemathesis does besides its own checks: it writes a line when it asks and one when it is answered.

Schemathesis imports this module because the environment names it in `SCHEMATHESIS_HOOKS`.
"""

import json
import os
from typing import Any

import schemathesis

CALLS = os.environ["REHEATD_FUZZ_CALLS"]


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    _write("asked", case)


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    _write("answered", case, status=response.status_code, body=response.content[:2000].decode("utf-8", "replace"))


@schemathesis.serializer("application/x-tar")
def tar(context: Any, value: Any) -> bytes:
    """What is sent as an archive: the bytes that Schemathesis makes, or the text of any other value."""
    content = getattr(value, "data", value)
    return content if isinstance(content, bytes) else str(content).encode("utf-8", "replace")


def _write(event: str, case: Any, **more: Any) -> None:
    line = json.dumps({"event": event, "method": case.method, "path": case.path, **more})
    with open(CALLS, "a") as file:
        file.write(line + "\n")
