"""Reads W&B's run files (`*.wandb`), which a run writes whether it is online or offline.

W&B has messages for the records in such a file, but no reader of the file in Python. The file is a log in the format of
LevelDB: blocks of 32 KiB with fragments of records, each after a header of checksum, length and type.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reheatd.errors import BadInputError
from reheatd.extras import require_diagnose_extra
from reheatd.json_lines import read_file
from reheatd.runlog.log import RunLog

FILE_HEADER = b":W&B\xe1\xbe"
"""Beginning of every file; the version, 0, follows in one byte."""
BLOCK = 32 * 1024
FRAGMENT = struct.Struct("<IHB")
"""Checksum of type and content, length of the content, type."""
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def read_wandb(file: Path) -> RunLog:
    """Reads what a run logged with `wandb.log`. The end of a file that is still being written is left out.

    Raises:
        BadInputError: The file cannot be read, or is damaged.
        MissingExtraError: wandb is not installed.
    """
    require_diagnose_extra("wandb", f"reading {file}")
    return RunLog.of_rows(file, "W&B", _rows(file))


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    from google.protobuf.message import DecodeError
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

    for content in records(file, read_file(file, "run")):
        try:
            record = Record.FromString(content)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                yield {item.key or "/".join(item.nested_key): _value(item) for item in items}
        except (DecodeError, ValueError, RecursionError) as error:
            raise BadInputError(f"{file} holds a record that is not W&B's", param="run") from error


def records(file: Path, content: bytes) -> Iterator[bytes]:
    """Yields the records in the content of `file`.

    Raises:
        BadInputError: It is not a W&B file, or a checksum is wrong.
    """
    if not content.startswith(FILE_HEADER):
        raise BadInputError(f"{file} is not a W&B run file: its first bytes are not {FILE_HEADER!r}", param="run")
    offset, parts = len(FILE_HEADER) + 1, b""
    while offset + FRAGMENT.size <= len(content):
        left = BLOCK - offset % BLOCK
        if left < FRAGMENT.size:
            offset += left
            continue
        checksum, length, kind = FRAGMENT.unpack_from(content, offset)
        begin, end = offset + FRAGMENT.size, offset + FRAGMENT.size + length
        if end > len(content):
            return
        if kind not in (FULL, FIRST, MIDDLE, LAST) or checksum != zlib.crc32(content[begin - 1 : end]):
            raise BadInputError(f"{file} is damaged at byte {offset}", param="run")
        parts = content[begin:end] if kind in (FULL, FIRST) else parts + content[begin:end]
        if kind in (FULL, LAST):
            yield parts
        offset = end


def _value(item: Any) -> Any:
    if item.value_json:
        return json.loads(item.value_json)
    kind = item.WhichOneof("value") if "value" in item.DESCRIPTOR.oneofs_by_name else None
    return getattr(item, kind) if kind in ("integer", "number") else None
