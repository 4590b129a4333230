"""Takes files away from a process: Landlock in pure Python, for Linux 5.13 and newer. See landlock(7).

A process that restricts itself can afterwards open only the files beneath the paths that it kept, and so can everything
that it starts. This cannot be undone. It needs no rights.
"""

import ctypes
import errno
import os
import struct
from collections.abc import Iterable
from pathlib import Path

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""System calls, with the same numbers on every architecture."""
VERSION_FLAG, PATH_BENEATH = 1, 1
PR_SET_NO_NEW_PRIVS = 38

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
RIGHTS_BY_VERSION = {1: 13, 2: 14, 3: 15}
"""Number of file rights that a version of Landlock knows; later ones know 15 that concern files and folders."""
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | 1 << 14
"""Rights that a rule for a single file may have; the last one is to truncate it."""
READ = EXECUTE | READ_FILE | READ_DIR
SCOPES = 0b11
"""From version 6: no signals to processes outside, and no abstract sockets of theirs."""


class LandlockUnavailableError(OSError):
    """This kernel cannot restrict the files of a process."""


def version() -> int:
    """The kernel's version of Landlock.

    Raises:
        LandlockUnavailableError: It has none; the message says why.
    """
    found = _libc().syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(VERSION_FLAG))
    if found > 0:
        return found
    number = ctypes.get_errno()
    reason = {
        errno.ENOSYS: "this kernel has no Landlock (Linux 5.13 or newer has it)",
        errno.EOPNOTSUPP: "Landlock is turned off in this kernel (its boot option `lsm=` does not name it)",
        errno.EPERM: "something forbids Landlock's system calls here, such as an old container engine",
    }.get(number, os.strerror(number))
    raise LandlockUnavailableError(number, reason)


def is_available() -> bool:
    """Whether this kernel can restrict the files of a process."""
    try:
        return version() > 0
    except LandlockUnavailableError:
        return False


def restrict(readable: Iterable[Path], *, listable: Iterable[Path] = (), writable: Iterable[Path] = ()) -> None:
    """Leaves this process nothing but the given files and what is beneath the given folders; missing ones are skipped.

    Args:
        readable: Files and folders that can be read and executed.
        listable: Folders of which, and of whose subfolders, only the names of files can be read.
        writable: Files and folders in which everything is allowed.

    Raises:
        LandlockUnavailableError: The kernel refuses.
    """
    number = version()
    handled = (1 << RIGHTS_BY_VERSION.get(number, 15)) - 1
    # Older versions know a shorter structure.
    words = (handled,) if number < 4 else (handled, 0) if number < 6 else (handled, 0, SCOPES)
    attributes = struct.pack(f"={len(words)}Q", *words)
    ruleset = _call(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0))
    try:
        for paths, rights in ((readable, READ), (listable, READ_DIR), (writable, handled)):
            for path in paths:
                _allow(ruleset, path, rights)
        if _libc().prctl(PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, (1, 0, 0, 0))) != 0:
            raise LandlockUnavailableError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
        _call(RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # it is not there, or not for this user: then there is nothing to allow
        return
    try:
        allowed = rights if path.is_dir() else rights & OF_FILES
        rule = struct.pack("=Qi", allowed, descriptor)
        _call(ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(PATH_BENEATH), rule, ctypes.c_uint32(0))
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: object) -> int:
    result = _libc().syscall(number, *arguments)
    if result < 0:
        error = ctypes.get_errno()
        raise LandlockUnavailableError(error, f"Landlock's system call {number}: {os.strerror(error)}")
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
