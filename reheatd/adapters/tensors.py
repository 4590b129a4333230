"""Reads and writes safetensors without torch, for what the daemon does with adapters; numpy alone has no bfloat16."""

import json
from collections.abc import Iterator, Mapping
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
        yield name, _decoded(tensor["data"], tensor["dtype"]).reshape(tensor["shape"])


def read_beginnings(file: Path, count: int) -> dict[str, NDArray[Any]]:
    """The first `count` values of every tensor in `file`, by name; only they and the file's header are read.

    Values of a number format that numpy lacks are their bytes.

    Raises:
        AdapterInvalidError: The file is missing, truncated or not a safetensors file.
    """
    read_shapes(file)  # which finds everything that is wrong with the file
    beginnings: dict[str, NDArray[Any]] = {}
    with file.open("rb") as handle:
        size = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(size))
        header.pop("__metadata__", None)
        for name, tensor in header.items():
            start, end = tensor["data_offsets"]
            width = np.dtype(DTYPES.get(tensor["dtype"], np.uint8)).itemsize
            handle.seek(8 + size + start)
            beginnings[name] = _decoded(handle.read(min(end - start, count * width)), tensor["dtype"])
    return beginnings


def write_tensors(file: Path, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """Writes `tensors` into a new `file`: as BF16 if that changes no value of any of them, else as F32."""
    halve = all(_fits_bfloat16(values) for values in tensors.values())
    width, dtype = (2, "BF16") if halve else (4, "F32")
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, values in tensors.items():
        start, end = end, end + values.size * width
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    with file.open("xb") as handle:
        handle.write(len(text).to_bytes(8, "little") + text)
        for values in tensors.values():
            bits = np.ascontiguousarray(values, np.dtype("<f4")).view(np.uint32)
            handle.write((bits >> 16).astype("<u2").tobytes() if halve else bits.tobytes())


def _decoded(data: bytes, dtype: str) -> NDArray[Any]:
    values = np.frombuffer(data, dtype=DTYPES.get(dtype, np.uint8))
    # A bfloat16 is the upper half of a float32.
    return (values.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else values


def _fits_bfloat16(values: NDArray[np.float32]) -> bool:
    return not (np.ascontiguousarray(values).view(np.uint32) & 0xFFFF).any()


@contextmanager
def _one_line_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise AdapterInvalidError(f"{file} does not exist; an adapter folder needs it") from error
    except SafetensorError as error:
        raise AdapterInvalidError(f"{file} is truncated or has a broken header ({error}); write it again") from error
