"""The source `reasoning_gym:NAME`: problems of a generator of the package reasoning-gym, whose scorer is its reward."""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from reheatd.errors import BadInputError, MissingExtraError

SIZE = 1000
"""Problems that are generated unless `task.arguments` has a `size`."""


def problems(name: str, *, seed: int = 0, size: int = SIZE, **options: Any) -> Iterator[dict[str, Any]]:
    """The problems that a generator makes with these options.

    The record of each holds reasoning-gym's own entry, from which its scorer judges.

    Raises:
        BadInputError: There is no generator of that name, or it does not take an option.
        MissingExtraError: reasoning-gym is not installed.
    """
    try:
        import reasoning_gym  # pyright: ignore[reportMissingImports]
        from reasoning_gym.factory import DATASETS  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError(
            f"reasoning_gym:{name} needs {error.name}: pip install 'reheatd[reasoning-gym]'"
        ) from error
    if name not in DATASETS:
        near = get_close_matches(name, DATASETS) or sorted(DATASETS)
        raise BadInputError(f"reasoning-gym has no {name!r}; it has {', '.join(near)}", param="task.path")
    for entry in reasoning_gym.create_dataset(name, seed=seed, size=size, **options):
        answer = entry["answer"]
        # Where several answers are right, there is no one answer, and only the scorer knows.
        yield {"prompt": entry["question"], "answer": "" if answer is None else str(answer), "entry": entry}
