"""What a running daemon shows to others: ports, command lines, logs and answers."""

import ipaddress
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from reheatd.broker_url import parse_broker_url
from tests.daemon import Daemon

ANSWERS = ("status", "journal?last=100", "jobs", "adapters", "entropy", "entropy/live")


def assert_only_the_gateway_could_be_reached(daemon: Daemon) -> None:
    """Every TCP and UDP socket that waits for others is on loopback; the gateway alone would follow `server.host`."""
    waiting = {
        (connection.type, connection.laddr.ip, connection.laddr.port)
        for process in (psutil.Process(daemon.process.pid), *daemon.tree())
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN or (connection.type == socket.SOCK_DGRAM and not connection.raddr)
    }
    gateway = urlsplit(daemon.url).port
    assert (socket.SOCK_STREAM, "127.0.0.1", gateway) in waiting
    assert len(waiting) >= 4, "broker, engine and tap wait as well"
    beyond = [each for each in waiting if not ipaddress.ip_address(each[1]).is_loopback]
    assert beyond == []


def assert_the_engine_answers_only_the_daemon(daemon: Daemon) -> None:
    (engine,) = _processes(daemon, "reheatd.engine.server")
    command = engine.cmdline()
    url = f"http://127.0.0.1:{command[command.index('--port') + 1]}"
    with httpx.Client(base_url=url, trust_env=False) as stranger:
        assert stranger.get("/health").status_code == 200
        for path in ("/v1/models", "/metrics", "/version", "/v1/load_lora_adapter", "/tokenize", "/invocations", "/x"):
            for method in ("GET", "POST"):
                for headers in ({}, {"authorization": "Bearer wrong"}):
                    assert stranger.request(method, path, headers=headers, json={}).status_code == 401, path
        key = engine.environ()["VLLM_API_KEY"]
        models = stranger.get("/v1/models", headers={"authorization": f"Bearer {key}"})
        assert models.status_code == 200, models.text


def assert_no_secret_is_shown(daemon: Daemon) -> None:
    """Neither command lines, logs, answers, commands nor files of others' reach have a password or a key."""
    secrets = _secrets(daemon)
    assert len(secrets) == 3
    processes = [psutil.Process(daemon.process.pid), *daemon.tree()]
    shown = {f"command line of {process.pid}": " ".join(process.cmdline()) for process in processes}
    shown |= {file.name: file.read_text(errors="replace") for file in (daemon.data_dir / "logs").iterdir()}
    shown |= {"log": daemon.log}
    shown |= {path: daemon.http.get(f"/reheatd/v1/{path}").text for path in ANSWERS}
    shown |= {"reheatd status": json.dumps(daemon.reheatd("status"))}
    doctor = subprocess.run(
        [sys.executable, "-m", "cli.main", "doctor", "--json", *daemon.command[daemon.command.index("--config") :]],
        capture_output=True,
        text=True,
    )
    shown |= {"reheatd doctor": doctor.stdout + doctor.stderr}
    assert {"engine.log", "worker-1.log", "broker.log"} <= shown.keys()
    found = [f"the {name} in {where}" for where, text in shown.items() for name, key in secrets.items() if key in text]
    assert found == []
    for file in daemon.data_dir.rglob("*"):
        if file.is_file() and any(key.encode() in file.read_bytes() for key in secrets.values()):
            assert _is_private(file), file
    assert _is_private(daemon.data_dir / "reheatd.sqlite3")


def _secrets(daemon: Daemon) -> dict[str, str]:
    (engine,) = _processes(daemon, "reheatd.engine.server")
    # Celery writes its title over its environment, but its guard has the same.
    worker = next(process for process in daemon.tree() if "REHEATD_BROKER_URL" in process.environ())
    environment = engine.environ()
    return {
        "engine's key": environment["VLLM_API_KEY"],
        "tap's key": environment["REHEATD_TAP_KEY"],
        "broker's password": parse_broker_url(worker.environ()["REHEATD_BROKER_URL"]).password,
    }


def _processes(daemon: Daemon, module: str) -> list[psutil.Process]:
    return [process for process in daemon.tree() if process.cmdline()[2:4] == ["-m", module]]


def _is_private(file: Path) -> bool:
    return stat.S_IMODE(os.stat(file).st_mode) & 0o077 == 0
