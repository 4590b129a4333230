"""Writing files and folders that a crash cannot lose or leave half done."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def fsync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(file: Path, content: bytes) -> None:
    """Writes or replaces `file`. After a crash at any moment, the file is whole: the old one or the new one."""
    scratch = file.with_name(file.name + ".tmp")
    scratch.write_bytes(content)
    fsync(scratch)
    scratch.replace(file)
    fsync(file.parent)


@contextmanager
def publish_folder(folder: Path) -> Iterator[Path]:
    """Gives a scratch folder to write into, which becomes `folder` when the block ends.

    From the moment it has its name, `folder` is complete and on the disk, even after a crash, and everybody may read
    it. If the block or the disk fails, nothing new appears. There may be only one writer at a time; it removes what a
    killed one left in scratch. An existing `folder` is replaced, and for a moment there is none.
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


def folder_bytes(folder: Path) -> int:
    """The size of all files under `folder`, in bytes."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@contextmanager
def only_process_in(folder: Path) -> Iterator[None]:
    """Lets only one process of this machine at a time into such a block for `folder`; the others wait."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
