"""Writing files and folders that a crash cannot lose or leave half done."""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def fsync(path: Path) -> None:
    """Waits until a file's content, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(file: Path, content: bytes) -> None:
    """Writes or replaces `file`. After a crash at any moment, the file is whole: the old one or the new one.

    If the disk fails or is full, the old one stays, and nothing else.
    """
    scratch = file.with_name(file.name + ".tmp")
    try:
        scratch.write_bytes(content)
        fsync(scratch)
        scratch.replace(file)
    except OSError:
        with suppress(OSError):
            scratch.unlink()
        raise
    fsync(file.parent)


def append_whole(file: Path, content: bytes) -> None:
    """Adds `content` at the end of a file, which need not exist; if not all of it can be written, nothing is added."""
    with file.open("ab", buffering=0) as stream:
        before = os.fstat(stream.fileno()).st_size
        try:
            left = memoryview(content)
            while left:
                left = left[stream.write(left) :]
        except OSError:
            stream.truncate(before)
            raise


def is_of_disk(error: OSError) -> bool:
    """Whether the disk is the reason, so that the same operation may succeed once somebody has seen to it."""
    return error.errno in _OF_DISK


_OF_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


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
