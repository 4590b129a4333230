"""Writing files that a crash cannot lose."""

import os
from pathlib import Path


def fsync(path: Path) -> None:
    """Returns when a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(file: Path, content: bytes) -> None:
    """Writes or replaces `file`: after a crash at any moment it is there whole, as it was or as it is to be."""
    scratch = file.with_name(file.name + ".tmp")
    scratch.write_bytes(content)
    fsync(scratch)
    scratch.replace(file)
    fsync(file.parent)
