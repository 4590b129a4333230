"""Children of the daemon: no process of theirs outlives it, and their ends are noticed and reported."""

import asyncio
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from reheatd.process import child_log, supervisor
from reheatd.process.supervisor import Child, ChildError, Command, Supervisor
from tests.waiting import wait_until

# A command that ignores SIGTERM, with a child that ignores it too and a grandchild that was daemonised: forked twice,
# in a session of its own, its parent gone. Each writes its pid.
STUBBORN_TREE = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
folder = sys.argv[1]
def note(name):
    with open(f"{folder}/{name}.tmp", "w") as file:
        file.write(str(os.getpid()))
    os.rename(f"{folder}/{name}.tmp", f"{folder}/{name}.pid")
if os.fork() == 0:
    note("child")
    time.sleep(600)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        note("daemonised")
        time.sleep(600)
    os._exit(0)
note("command")
time.sleep(600)
"""

DAEMON = """
import asyncio, json, sys
from pathlib import Path
from reheatd.process.supervisor import Command, Supervisor
async def main(folder, argv):
    children = Supervisor(Path(folder))
    await children.start(Command("tree", argv, grace_s=0.3))
    await asyncio.Event().wait()
asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
"""


def python(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]


def pids_of(folder: Path) -> dict[str, int]:
    return {path.stem: int(path.read_text()) for path in folder.glob("*.pid")}


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_of_the_tree_outlives_the_daemon(tmp_path: Path, number: signal.Signals) -> None:
    daemon = subprocess.Popen(python(DAEMON, tmp_path, json.dumps(python(STUBBORN_TREE, tmp_path))))
    wait_until(lambda: len(pids_of(tmp_path)) == 3)
    (guard,) = psutil.Process(daemon.pid).children()
    tree = [guard.pid, *pids_of(tmp_path).values()]
    assert all(is_alive(pid) for pid in tree)
    daemon.send_signal(number)
    daemon.wait()
    wait_until(lambda: not any(is_alive(pid) for pid in tree))


def test_a_killed_guard_takes_its_command_along(tmp_path: Path) -> None:
    daemon = subprocess.Popen(python(DAEMON, tmp_path, json.dumps(python(STUBBORN_TREE, tmp_path))))
    wait_until(lambda: len(pids_of(tmp_path)) == 3)
    (guard,) = psutil.Process(daemon.pid).children()
    tree = pids_of(tmp_path)
    guard.kill()
    wait_until(lambda: not is_alive(tree["command"]))
    daemon.kill()
    daemon.wait()
    for name in ("child", "daemonised"):
        os.kill(tree[name], signal.SIGKILL)


def test_stop_lets_a_child_shut_down_in_its_own_way(tmp_path: Path) -> None:
    code = """
    import signal, sys, time
    def leave(*_):
        time.sleep(0.3)
        print("drained", flush=True)
        sys.exit(0)
    signal.signal(signal.SIGTERM, leave)
    print("up", flush=True)
    time.sleep(600)
    """

    async def scenario() -> None:
        children = Supervisor(tmp_path)
        child = await children.start(Command("polite", python(code)))
        await child.ready_when(asyncio.to_thread(wait_until, lambda: "up" in child.log_path.read_text()))
        await children.stop_all()
        assert not child.is_running
        assert child.log_path.read_text().split() == ["up", "drained"]

    asyncio.run(scenario())


def test_what_the_others_need_is_stopped_last(tmp_path: Path) -> None:
    code = """
    import pathlib, signal, sys, time
    def leave(*_):
        time.sleep(0.3)
        with pathlib.Path(sys.argv[1]).with_name("ends").open("a") as ends:
            print(pathlib.Path(sys.argv[1]).name, file=ends)
        sys.exit(0)
    signal.signal(signal.SIGTERM, leave)
    print("up", flush=True)
    time.sleep(600)
    """

    async def scenario() -> None:
        children = Supervisor(tmp_path)
        names = ("broker", "engine", "worker")
        started = {name: await children.start(Command(name, python(code, tmp_path / name))) for name in names}
        for child in started.values():
            await child.ready_when(asyncio.to_thread(wait_until, lambda log=child.log_path: "up" in log.read_text()))
        await asyncio.gather(children.stop_all(last=started["broker"]), started["worker"].stop())
        ends = (tmp_path / "ends").read_text().split()
        assert sorted(ends) == sorted(names)  # each ended once, though one was asked twice
        assert ends[-1] == "broker"

    asyncio.run(scenario())


def test_stop_kills_what_ignores_it_within_the_grace_period(tmp_path: Path) -> None:
    async def scenario() -> None:
        children = Supervisor(tmp_path)
        await children.start(Command("tree", python(STUBBORN_TREE, tmp_path), grace_s=0.3))
        await asyncio.to_thread(wait_until, lambda: len(pids_of(tmp_path)) == 3)
        started = time.monotonic()
        await children.stop_all()
        assert time.monotonic() - started < 300  # the tree would live for twice as long

    asyncio.run(scenario())
    assert not any(is_alive(pid) for pid in pids_of(tmp_path).values())


def test_an_end_during_start_up_is_an_error_with_the_reason(tmp_path: Path) -> None:
    async def scenario() -> None:
        children = Supervisor(tmp_path)
        child = await children.start(Command("engine", python("import sys; print('no such model'); sys.exit(3)")))
        with pytest.raises(ChildError, match=r"the engine exited with code 3 .*no such model.*engine\.log"):
            await child.ready_when(asyncio.sleep(60))
        await children.stop_all()

    asyncio.run(scenario())


def test_the_cause_is_picked_from_the_log_of_this_run(tmp_path: Path) -> None:
    code = """
    import sys
    print("ValueError: head_dim 24 is not supported")
    print("RuntimeError: initialization failed. See root cause above.")
    print("bye")
    sys.exit(1)
    """

    async def scenario() -> None:
        (tmp_path / "engine.log").write_text("ValueError: of the run before\n")
        children = Supervisor(tmp_path)
        child = await children.start(Command("engine", python(code)))
        with pytest.raises(ChildError, match=r"\(ValueError: head_dim 24 is not supported\)"):
            await child.ready_when(asyncio.sleep(60))
        silent = await children.start(Command("engine", python("raise SystemExit(4)")))
        with pytest.raises(ChildError, match=r"exited with code 4 after \d+ s; its log"):
            await silent.ready_when(asyncio.sleep(60))
        await children.stop_all()

    asyncio.run(scenario())


def test_a_command_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    async def scenario() -> None:
        children = Supervisor(tmp_path)
        child = await children.start(Command("broker", ["/no/such/binary"]))
        with pytest.raises(ChildError, match=r"exited with code 127 .*/no/such/binary: No such file"):
            await child.ready_when(asyncio.sleep(60))
        await children.stop_all()

    asyncio.run(scenario())


def test_a_dead_child_is_restarted_with_backoff_and_the_reason_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_BACKOFF_S", 0.05)
    runs = tmp_path / "runs"
    code = """
    import os, pathlib, signal, sys, time
    runs = pathlib.Path(sys.argv[1])
    with runs.open("a") as file:
        file.write(f"{os.getpid()}\\n")
    print("out of memory", flush=True)
    if len(runs.read_text().split()) < 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    time.sleep(600)
    """

    async def scenario() -> None:
        events: list[str] = []
        third = asyncio.Event()

        async def on_restart() -> None:
            # Ready is what the third run becomes; the second dies first, which must not end the keeping.
            while len(runs.read_text().split()) < 3:
                await asyncio.sleep(0.01)
            events.append("restored")
            third.set()

        children = Supervisor(tmp_path)
        child = await children.start(Command("worker", python(code, runs)))
        child.keep_running(on_exit=lambda: events.append("exit"), on_restart=on_restart)
        await third.wait()
        assert child.is_running
        assert child.restarts == 2
        assert events == ["exit", "exit", "restored"]
        await children.stop_all()

    asyncio.run(scenario())
    assert re.search(r"the worker was ended by SIGSEGV after \d+ s \(out of memory\)", caplog.text)


def test_a_child_that_lives_but_cannot_go_on_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_BACKOFF_S", 0.05)
    pids = tmp_path / "pids"
    code = """
    import os, pathlib, sys, time
    with pathlib.Path(sys.argv[1]).open("a") as file:
        file.write(f"{os.getpid()}\\n")
    time.sleep(600)
    """

    async def scenario() -> None:
        dead, replaced = asyncio.Event(), asyncio.Event()
        events: list[str] = []

        async def until_dead() -> None:
            await dead.wait()
            dead.clear()

        async def on_restart() -> None:
            await asyncio.to_thread(wait_until, lambda: len(pids.read_text().split()) == 2)
            replaced.set()

        children = Supervisor(tmp_path)
        child = await children.start(Command("engine", python(code, pids), grace_s=0.2))
        await asyncio.to_thread(wait_until, lambda: pids.exists() and pids.read_text().endswith("\n"))
        child.keep_running(on_exit=lambda: events.append("exit"), on_restart=on_restart, until_dead=until_dead)
        dead.set()
        await replaced.wait()
        first, second = pids.read_text().split()
        assert not is_alive(int(first))
        assert is_alive(int(second))
        assert events == ["exit"]
        await children.stop_all()

    asyncio.run(scenario())
    assert "the engine is running but can no longer do its work" in caplog.text


NUMBERED_RUNS = """
import pathlib, sys, time
runs = pathlib.Path(sys.argv[1])
with runs.open("a") as file:
    file.write("run\\n")
print("up", flush=True)
time.sleep(600)
"""


def test_a_child_is_restarted_though_its_log_and_their_folder_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_BACKOFF_S", 0.05)
    logs, runs = tmp_path / "logs", tmp_path / "runs"

    async def scenario() -> None:
        children = Supervisor(logs)
        child = await children.start(Command("engine", python(NUMBERED_RUNS, runs)))
        await asyncio.to_thread(wait_until, runs.exists)
        child.keep_running()
        shutil.rmtree(logs)
        await asyncio.to_thread(kill_tree, child)
        await asyncio.to_thread(wait_until, lambda: runs.read_text().count("run") == 2)
        await asyncio.to_thread(wait_until, lambda: child.log_path.read_text() == "up\n")
        await children.stop_all()

    asyncio.run(scenario())


def test_a_restart_that_fails_is_tried_again_and_its_traceback_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_BACKOFF_S", 0.05)
    runs = tmp_path / "runs"
    start_process = asyncio.create_subprocess_exec
    failures = [OSError(errno.EAGAIN, "Resource temporarily unavailable"), OSError(errno.ENOMEM, "Out of memory")]

    async def fail_first(*arguments: Any, **options: Any) -> asyncio.subprocess.Process:
        if failures:
            raise failures.pop()
        return await start_process(*arguments, **options)

    async def scenario() -> None:
        children = Supervisor(tmp_path)
        child = await children.start(Command("engine", python(NUMBERED_RUNS, runs)))
        await asyncio.to_thread(wait_until, runs.exists)
        exits: list[str] = []
        child.keep_running(on_exit=lambda: exits.append("exit"))
        monkeypatch.setattr(asyncio, "create_subprocess_exec", fail_first)
        open_files = len(os.listdir("/proc/self/fd"))
        await asyncio.to_thread(kill_tree, child)
        await asyncio.to_thread(wait_until, lambda: runs.read_text().count("run") == 2)
        assert (child.restarts, exits, failures) == (1, ["exit"], [])
        assert len(os.listdir("/proc/self/fd")) == open_files
        await children.stop_all()

    asyncio.run(scenario())
    assert caplog.text.count("the engine could not be restarted; the next attempt follows\nTraceback") == 2


def kill_tree(child: Child) -> None:
    """Kills the command, which its guard survives to report."""
    assert child._process is not None
    (command,) = psutil.Process(child._process.pid).children()
    command.kill()


def test_a_large_log_is_rotated_while_the_child_goes_on_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child_log, "LARGEST", 1000)
    code = """
    import pathlib, sys, time
    print("begin " * 200, flush=True)
    while not pathlib.Path(sys.argv[1]).exists():
        time.sleep(0.01)
    print("ValueError: the end", flush=True)
    sys.exit(1)
    """

    async def scenario() -> None:
        children = Supervisor(tmp_path)
        child = await children.start(Command("engine", python(code, tmp_path / "go")))
        await asyncio.to_thread(wait_until, lambda: child.log_path.stat().st_size > 1000)
        rotating = asyncio.create_task(children.rotate_logs())
        await asyncio.to_thread(wait_until, lambda: child.log_path.stat().st_size == 0)
        (tmp_path / "go").touch()
        with pytest.raises(ChildError, match=r"\(ValueError: the end\)"):
            await child.ready_when(asyncio.sleep(60))
        assert child.log_path.read_text() == "ValueError: the end\n"
        assert (tmp_path / "engine.log.1").read_text().startswith("begin begin")
        rotating.cancel()
        await children.stop_all()

    asyncio.run(scenario())
