"""Disks that are small, full or read-only.

Mounting takes no rights on the machine: `make chaos` runs the tests in a user and mount namespace of their own
(`unshare -rm`), where a tmpfs and a bind mount are allowed. Virtual machines and the containers of Podman and LXC have
that; Docker's default seccomp profile refuses it (`--security-opt seccomp=unconfined` allows it).
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SIZE_MIB = 64


class SmallDisk:
    """A tmpfs on `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def full(self) -> Iterator[None]:
        """A context in which the disk has no free byte."""
        filler = self.folder / "filler"
        try:
            with filler.open("wb", buffering=0) as file:
                size = 1 << 20
                while size:
                    try:
                        file.write(bytes(size))
                    except OSError:
                        size //= 2
            assert os.statvfs(self.folder).f_bavail == 0
            yield
        finally:
            filler.unlink()


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """A small disk on `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={SIZE_MIB}m", "tmpfs", str(folder))
    try:
        yield SmallDisk(folder)
    finally:
        _unmount(folder)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """A context in which nothing in `folder` can be written, by root neither."""
    _mount("--bind", str(folder), str(folder))
    try:
        _mount("-o", "remount,ro,bind", str(folder))
        yield
    finally:
        _unmount(folder)


def _mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mount {' '.join(arguments)}: {done.stderr.strip()}; see tests/chaos/disks.py")


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
