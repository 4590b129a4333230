"""Claims the data folder and the port before anything is started, so that each belongs to only one daemon."""

import asyncio
import errno
import fcntl
import json
import os
import socket
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from reheatd.errors import BadInputError, ConflictError, PortInUseError
from reheatd.files import write_atomically
from reheatd.text import shown

PREDECESSOR_TIMEOUT_S = 30.0
"""Longest wait for the children of a killed daemon to end; their guards end them within seconds."""
POLL_S = 0.1


async def claim_data_dir(folder: Path) -> int:
    """Locks `folder` for this process and for processes that inherit the returned descriptor.

    The guards of the daemon's children inherit it. So after a `kill -9` the folder stays locked until the last child is
    gone, and two brokers never write into one folder. A new folder is open to its owner alone.

    Raises:
        BadInputError: The folder cannot be written.
        ConflictError: Another daemon uses the folder; the message names its process id.
    """
    with _explained(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder / "daemon.lock", os.O_RDWR | os.O_CREAT, 0o644)
    deadline = time.monotonic() + PREDECESSOR_TIMEOUT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = int(os.pread(descriptor, 32, 0) or b"0")
            if _is_alive(owner) or time.monotonic() > deadline:
                os.close(descriptor)
                raise ConflictError(
                    f"data_dir {folder} is in use by the daemon with process id {owner}; stop that daemon, "
                    "or name another folder with --data-dir"
                ) from error
            await asyncio.sleep(POLL_S)
        else:
            break
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def make_folders(data_dir: Path, folders: Iterable[Path], database: Path) -> None:
    """Makes the folders inside `data_dir` that do not exist yet, and checks that all can be written.

    Raises:
        BadInputError: A folder cannot be written, or `database` is a folder; the message names it.
    """
    with _explained(data_dir):
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        if database.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(database))


@contextmanager
def _explained(data_dir: Path) -> Iterator[None]:
    """Turns what the system says about a file of the data folder into one line."""
    try:
        yield
    except OSError as error:
        kind = {errno.EEXIST: "it is a file, not a folder", errno.ENOTDIR: "a part of its path is a file"}
        why = kind.get(error.errno or 0, error.strerror or str(error))
        raise BadInputError(
            f"data_dir {data_dir} cannot be used: {error.filename or data_dir}: {why}; repair that, or name another "
            "folder with --data-dir",
            param="data_dir",
        ) from error


def listen(host: str, port: int, *, admin: bool = False) -> socket.socket:
    """A socket that listens on `host` and `port`; port 0 picks a free one.

    Args:
        admin: Whether this is the port for administration alone, which has settings of its own.

    Raises:
        PortInUseError: Another process listens there.
        BadInputError: This machine has no such address, or this user may not listen on the port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    name = "server.admin_" if admin else "server."
    try_port, try_host = (f"with {name}port", f"in {name}host") if admin else ("with --port", "with --host")
    try:
        # `create_server` adds the address to what the system says of it, with brackets of its own.
        addresses = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        listener = socket.create_server(addresses[0][4][:2], family=family, backlog=1024)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"port {port} on {host} is in use; stop the process that uses it, or choose another one {try_port}",
                param=f"{name}port",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise BadInputError(
                f"port {port} is not open to this user; choose one above 1023 {try_port}", param=f"{name}port"
            ) from error
        raise BadInputError(
            f"cannot listen on {host} ({error.strerror}); name an address of this machine {try_host}",
            param=f"{name}host",
        ) from error
    except UnicodeError as error:
        raise BadInputError(
            f"{name}host = {shown(host)} is no name of a host; name an address of this machine {try_host}",
            param=f"{name}host",
        ) from error
    # Connections inherit this option. asyncio sets it only on sockets whose protocol is named as TCP, which is not the
    # case here. Without it, the body of an answer waits 40 ms for the client to acknowledge the headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def url_of(host: str, port: int, scheme: str = "http") -> str:
    """The URL at which a client on this machine reaches a server bound to `host`."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"{scheme}://[{reachable}]:{port}" if ":" in reachable else f"{scheme}://{reachable}:{port}"


def write_daemon_file(path: Path, url: str) -> None:
    """Records the daemon's process id and URL for others to find. The file appears whole or not at all."""
    write_atomically(path, json.dumps({"pid": os.getpid(), "url": url, "started_at": time.time()}).encode())


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
