"""Reads safetensors without torch: the daemon checks adapters, and numpy alone knows no bfloat16."""

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reheatd.errors import AdapterInvalidError

DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """Name -> {"dtype", "shape", "data_offsets"} of every tensor in `file`.

    Raises:
        AdapterInvalidError: The file is missing, truncated or no safetensors file.
    """
    try:
        with file.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            size = file.stat().st_size
            if length > size - 8:
                raise AdapterInvalidError(f"{file} is truncated or no safetensors file; write it again")
            header = json.loads(handle.read(length))
    except FileNotFoundError as error:
        raise AdapterInvalidError(f"{file} does not exist; an adapter folder needs it") from error
    except (struct.error, ValueError) as error:
        raise AdapterInvalidError(f"{file} is truncated or no safetensors file; write it again") from error
    try:
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (AttributeError, KeyError, TypeError) as error:
        raise AdapterInvalidError(f"{file} has a broken header ({error}); write it again") from error
    if 8 + length + end != size:
        raise AdapterInvalidError(f"{file} has {size} bytes, its header says {8 + length + end}; write it again")
    return header


def read_tensors(file: Path) -> Iterator[tuple[str, NDArray[np.floating[Any]]]]:
    """(name, values as a floating-point array) of every tensor, one at a time.

    Raises:
        AdapterInvalidError: As `read_header`, or a tensor is not floating-point, or not as long as its shape says.
    """
    header = read_header(file)
    with file.open("rb") as handle:
        (length,) = struct.unpack("<Q", handle.read(8))
        for name, entry in header.items():
            if entry["dtype"] not in DTYPES:
                raise AdapterInvalidError(f"{name} in {file} is {entry['dtype']}; adapters are F32, F16 or BF16")
            start, end = entry["data_offsets"]
            if end - start != math.prod(entry["shape"]) * np.dtype(DTYPES[entry["dtype"]]).itemsize:
                raise AdapterInvalidError(f"{name} in {file} is not as long as its shape {entry['shape']} says")
            handle.seek(8 + length + start)
            values = np.frombuffer(handle.read(end - start), dtype=DTYPES[entry["dtype"]]).reshape(entry["shape"])
            if entry["dtype"] == "BF16":
                # The upper half of a float32 is a bfloat16.
                values = (values.astype(np.uint32) << 16).view(np.float32)
            yield name, values
