"""The process that a source of tasks runs in; `reheatd.tasks.sources` starts it.

It writes a record per line, {"record": ...}, and in the end {"done": true} or {"error": ...}. A process of its own
keeps the source's packages out of the daemon, and has a fixed PYTHONHASHSEED: generators that iterate over sets would
otherwise give the daemon and its workers different problems.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from reheatd.errors import ReheatdError

GROUP = "reheatd.tasks"

Source = Callable[..., Iterable[dict[str, Any]]]


def installed_sources() -> dict[str, EntryPoint]:
    """The sources that are installed, by name."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def main() -> None:
    """Writes the records of a source; the arguments are its name, its argument and its named arguments as JSON."""
    name, argument, named = sys.argv[1:]
    # Only records go to the real stdout; whatever the source prints goes to stderr.
    records = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    sys.path.append(str(Path.cwd()))
    try:
        source: Source = installed_sources()[name].load()
        for record in source(argument, **json.loads(named)):
            records.write(json.dumps({"record": record}, default=str) + "\n")
    except Exception as error:  # a source is code of others, which may raise anything
        cause = error.message if isinstance(error, ReheatdError) else f"{type(error).__name__}: {error}"
        records.write(json.dumps({"error": " ".join(cause.split())}) + "\n")
    else:
        records.write('{"done": true}\n')
    records.close()


if __name__ == "__main__":
    main()
