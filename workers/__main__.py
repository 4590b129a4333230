"""A worker: `python -P -m workers` with the options of `celery worker`. `reheatd worker` runs it.

`celery -A workers.app worker` would look into the working directory first, where a user may have a folder `workers`.
Here, reheatd's `workers` is already imported when Celery asks for it.
"""

import sys

from celery.bin.celery import celery

from reheatd.errors import ConfigError
from reheatd.extras import require_own


def main() -> None:
    try:
        require_own("workers")
        import workers.app  # noqa: F401
    except ConfigError as error:
        sys.exit(f"reheatd: {error.message}")
    celery(["-A", "workers.app", "worker", *sys.argv[1:]])


if __name__ == "__main__":
    main()
