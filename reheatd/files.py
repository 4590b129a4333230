"""Writing files and folders that a crash cannot lose or leave half done."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def publish_folder(folder: Path) -> Iterator[Path]:
    """Gives a scratch folder to write into; it becomes `folder` when the block ends.

    `folder` is complete and on the disk from the moment it has its name, after a crash too, and everybody may read it.
    When the block or the disk fails there is nothing new. One writer at a time: what a killed one left in scratch is
    removed by the next. An existing `folder` is replaced; for a moment there is none.
    """
    scratch = folder.with_name(f".{folder.name}.tmp")
    _remove(scratch)
    scratch.mkdir(parents=True)
    try:
        yield scratch
        for path in (*scratch.rglob("*"), scratch):
            path.chmod(0o755 if path.is_dir() else 0o644)
            fsync(path)
        _remove(folder)
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    fsync(folder.parent)


@contextmanager
def only_process_in(folder: Path) -> Iterator[None]:
    """Waits until no other process of this machine is in such a block for the same folder."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
