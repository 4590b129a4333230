"""One daemon per data folder and port."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from reheatd.errors import BadInputError, ConflictError, PortInUseError
from reheatd.process.instance import claim_data_dir, listen, make_folders, url_of

# A daemon with a child that takes a second to end; prints when it is up.
DAEMON = '''
import asyncio, sys
from pathlib import Path
from reheatd.process.instance import claim_data_dir
from reheatd.process.supervisor import Command, Supervisor
STUBBORN = """import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", os.getpid(), flush=True)
time.sleep(600)"""
async def main(folder):
    lock = await claim_data_dir(folder)
    children = Supervisor(folder, inherited=(lock,))
    child = await children.start(Command("child", [sys.executable, "-c", STUBBORN], grace_s=1))
    while not child.log_path.read_text().endswith("\\n"):
        await asyncio.sleep(0.01)
    print("up", Path(child.log_path).read_text().split()[1], flush=True)
    await asyncio.Event().wait()
asyncio.run(main(Path(sys.argv[1])))
'''


def start_daemon(folder: Path) -> "tuple[subprocess.Popen[str], int]":
    """A daemon, and the pid of its child."""
    daemon = subprocess.Popen([sys.executable, "-c", DAEMON, str(folder)], stdout=subprocess.PIPE, text=True)
    assert daemon.stdout is not None
    with daemon.stdout:
        up, child = daemon.stdout.readline().split()
        assert up == "up"
    return daemon, int(child)


def test_a_second_daemon_is_told_who_has_the_folder(tmp_path: Path) -> None:
    daemon, _ = start_daemon(tmp_path)
    with pytest.raises(ConflictError, match=rf"{tmp_path} is in use by .* {daemon.pid}; .*--data-dir"):
        asyncio.run(claim_data_dir(tmp_path))
    daemon.kill()
    daemon.wait()


def test_after_kill_9_the_folder_is_free_once_the_children_are_gone(tmp_path: Path) -> None:
    daemon, child = start_daemon(tmp_path)
    daemon.send_signal(signal.SIGKILL)
    daemon.wait()
    # The child ignores SIGTERM, so its guard, which holds the lock, has to wait for the grace period.
    assert psutil.pid_exists(child)
    os.close(asyncio.run(claim_data_dir(tmp_path)))
    assert not psutil.pid_exists(child)
    assert (tmp_path / "daemon.lock").read_text() == str(os.getpid())


def test_a_data_folder_that_cannot_be_used_is_named_with_the_way_out(tmp_path: Path) -> None:
    file, taken = tmp_path / "file", tmp_path / "data" / "daemon.lock"
    file.touch()
    taken.mkdir(parents=True)
    for folder, why in (
        (file, "it is a file, not a folder"),
        (file / "below", "a part of its path is a file"),
        (tmp_path / ("x" * 300), "File name too long"),
        (tmp_path / "data", "daemon.lock: Is a directory"),
        (Path("/proc/reheatd"), "No such file or directory"),
    ):
        with pytest.raises(BadInputError, match=rf"data_dir .* cannot be used: .*{why}; .*--data-dir") as caught:
            asyncio.run(claim_data_dir(folder))
        assert caught.value.param == "data_dir"


def test_what_is_in_the_way_inside_the_data_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "logs").touch()
    (tmp_path / "reheatd.sqlite3").mkdir()
    make_folders(tmp_path, [tmp_path / "jobs"], tmp_path / "new.sqlite3")
    assert (tmp_path / "jobs").is_dir()
    with pytest.raises(BadInputError, match=rf"{tmp_path}/logs: it is a file, not a folder"):
        make_folders(tmp_path, [tmp_path / "logs"], tmp_path / "new.sqlite3")
    with pytest.raises(BadInputError, match=rf"{tmp_path}/reheatd.sqlite3: Is a directory"):
        make_folders(tmp_path, [], tmp_path / "reheatd.sqlite3")


def test_a_host_that_is_no_name_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"server.host = 'é+' is no name of a host.*--host"):
        listen("é" * 80, 0)
    with pytest.raises(BadInputError, match=r"^cannot listen on nowhere.invalid \([^()]*\); .*--host"):
        listen("nowhere.invalid", 0)


def test_a_port_in_use_is_named_with_the_way_out() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=rf"port {port} .*--port"):
            listen("127.0.0.1", port)


def test_answers_do_not_wait_for_the_client_to_acknowledge_their_headers() -> None:
    with listen("127.0.0.1", 0) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_an_address_of_another_machine_is_named_with_the_way_out() -> None:
    with pytest.raises(BadInputError, match=r"192\.0\.2\.1 .*--host"):
        listen("192.0.2.1", 0)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("example.org", "http://example.org:80"),
    ],
)
def test_the_url_is_one_that_can_be_reached(host: str, url: str) -> None:
    assert url_of(host, 80) == url
