"""Tells whether training changed an adapter at all."""

from pathlib import Path

import numpy as np

from reheatd.adapters.tensors import read_tensors
from reheatd.adapters.validate import WEIGHTS_FILE


def is_unchanged(adapter: Path, parent: Path | None) -> bool:
    """Whether the adapter in a folder is equal to its parent's, tensor by tensor.

    Args:
        parent: Folder of the parent's adapter; None for the base, to which an adapter is equal whose product B A is 0
            because B still is.

    Raises:
        AdapterInvalidError: Weights cannot be read.
    """
    made = dict(read_tensors(adapter / WEIGHTS_FILE))
    if parent is None:
        return not any(values.any() for name, values in made.items() if "lora_B" in name)
    before = dict(read_tensors(parent / WEIGHTS_FILE))
    return made.keys() == before.keys() and all(np.array_equal(values, before[name]) for name, values in made.items())
