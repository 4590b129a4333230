"""Reads safetensors without torch: the daemon checks adapters, and numpy alone knows no bfloat16."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize, safe_open

from reheatd.errors import AdapterInvalidError

DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}


def read_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor in `file`, of which only the header is read.

    Raises:
        AdapterInvalidError: The file is missing, truncated or no safetensors file.
    """
    with _one_line_errors(file), safe_open(file, framework="np") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118 - no dict


def read_tensors(file: Path) -> Iterator[tuple[str, NDArray[np.floating[Any]]]]:
    """(name, values as a floating-point array) of every tensor in `file`.

    Raises:
        AdapterInvalidError: As `read_shapes`, or a tensor is not floating-point.
    """
    with _one_line_errors(file):
        tensors = deserialize(file.read_bytes())
    for name, tensor in tensors:
        if tensor["dtype"] not in DTYPES:
            raise AdapterInvalidError(f"{name} in {file} is {tensor['dtype']}; adapters are F32, F16 or BF16")
        values = np.frombuffer(tensor["data"], dtype=DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
        if tensor["dtype"] == "BF16":
            # The upper half of a float32 is a bfloat16.
            values = (values.astype(np.uint32) << 16).view(np.float32)
        yield name, values


@contextmanager
def _one_line_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise AdapterInvalidError(f"{file} does not exist; an adapter folder needs it") from error
    except SafetensorError as error:
        raise AdapterInvalidError(f"{file} is truncated or has a broken header ({error}); write it again") from error
