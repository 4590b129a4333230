"""Reads safetensors without torch, for the daemon's checks of adapters; numpy alone has no bfloat16."""

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
    """The shape of every tensor in `file`, by name; only the file's header is read.

    Raises:
        AdapterInvalidError: The file is missing, truncated or not a safetensors file.
    """
    with _one_line_errors(file), safe_open(file, framework="np") as tensors:
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118 - no dict


def read_tensors(file: Path) -> Iterator[tuple[str, NDArray[np.floating[Any]]]]:
    """Yields the name of every tensor in `file` with its values, as a floating-point array.

    Raises:
        AdapterInvalidError: The file is missing, truncated or not a safetensors file, or a tensor is not
            floating-point.
    """
    with _one_line_errors(file):
        tensors = deserialize(file.read_bytes())
    for name, tensor in tensors:
        if tensor["dtype"] not in DTYPES:
            raise AdapterInvalidError(f"{name} in {file} is {tensor['dtype']}; adapters are F32, F16 or BF16")
        values = np.frombuffer(tensor["data"], dtype=DTYPES[tensor["dtype"]]).reshape(tensor["shape"])
        if tensor["dtype"] == "BF16":
            # A bfloat16 is the upper half of a float32.
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
