"""The broker as daemon and workers reach it: by TCP and by socket, with a password of any characters."""

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from redis import Redis

from reheatd.jobs.channel import JobChannel
from reheatd.jobs.dispatch import JobDispatcher, make_celery
from reheatd.process.broker import BrokerError, embedded_broker, ping, server_binary, wait_for_broker
from reheatd.process.ports import reserve_port
from tests.access import CREDENTIALS
from tests.certificates import make_certificate

TLS_PROXY = """
import asyncio, ssl, sys
async def pump(source, sink):
    while data := await source.read(1 << 16):
        sink.write(data)
    sink.close()
async def serve(reader, writer):
    inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", int(sys.argv[1]))
    await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer), return_exceptions=True)
async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*sys.argv[2:])
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""
FOLDERS = ['a "b" c', "it's \\n \\x41", "line\nbreak\ttab", "é 🙂", os.fsdecode(b"latin-\xe9"), "${HOME} #1 'x"]
SECRET = "pa/ss#wo?rd@%&:+"


@dataclass
class Valkey:
    """A Valkey that listens on TCP and on a socket, and asks for `SECRET`."""

    port: int
    socket: Path

    def urls(self) -> list[str]:
        places = f"127.0.0.1:{self.port}/1", f"{self.socket}?db=1"
        return [
            f"redis://:{SECRET}@{places[0]}",
            f"valkey://:{quote(SECRET, safe='')}@{places[0]}",
            f"unix://:{SECRET}@{places[1]}",
            f"redis+socket://:{SECRET}@{self.socket}?virtual_host=1",
        ]


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    folder = tmp_path_factory.mktemp("valkey")
    port, path = reserve_port(), folder / "s"
    settings = f'bind 127.0.0.1\nport {port}\nunixsocket "{path}"\nrequirepass "{SECRET}"\nsave ""\n'
    process = subprocess.Popen([str(server_binary()), "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert process.stdin is not None
    process.stdin.write(settings.encode())
    process.stdin.close()
    found = Valkey(port, path)
    try:
        asyncio.run(wait_for_broker(found.urls()[0]))
        yield found
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("which", range(4))
def test_daemon_celery_and_workers_reach_one_database(valkey: Valkey, which: int) -> None:
    url = valkey.urls()[which]

    async def body() -> None:
        await wait_for_broker(url)
        assert await ping(url)
        dispatcher = JobDispatcher(url, heartbeat_timeout_s=60, credential=CREDENTIALS.of)
        await dispatcher.cancel(f"job-{which}")
        await dispatcher.close()

    asyncio.run(body())
    with JobChannel(url, f"job-{which}", 1) as channel:
        assert channel.is_cancelled()
    app = make_celery(url)
    sent = app.send_task("some.task", task_id=f"task-{which}", queue=f"queue-{which}")
    app.backend.store_result(sent.id, 7, "SUCCESS")
    assert sent.get(timeout=5) == 7
    app.close()
    with Redis(unix_socket_path=str(valkey.socket), password=SECRET, db=1) as redis:
        assert redis.llen(f"queue-{which}") == 1 and redis.exists(f"celery-task-meta-task-{which}")


def test_nothing_that_celery_shows_or_logs_has_the_password(valkey: Valkey, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for url in valkey.urls():
        app = make_celery(url)
        with app.connection() as connection:
            connection.ensure_connection(max_retries=1)
            shown = [connection.as_uri(), repr(connection), repr(app.backend), app.backend.as_uri()]
        shown += [app.bugreport(), app.conf.humanize(with_defaults=True), caplog.text]
        app.close()
        for text in shown:
            assert SECRET not in text and quote(SECRET, safe="") not in text


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ((SECRET, "s3cret"), "refuses what broker.url says: .*password"),
        ((f":{SECRET}@", ""), "refuses what broker.url says: .*[Aa]uth"),
        (("/1", "/99"), "refuses what broker.url says: .*index"),
    ],
)
def test_what_the_broker_refuses_is_said_at_once(valkey: Valkey, change: tuple[str, str], says: str) -> None:
    with pytest.raises(BrokerError, match=f"^the broker at redis://127.0.0.1:{valkey.port}/.* {says}") as caught:
        asyncio.run(wait_for_broker(valkey.urls()[0].replace(*change), timeout_s=600))
    assert SECRET not in caught.value.message and "s3cret" not in caught.value.message


def test_a_broker_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    for url in (f"redis://:{SECRET}@127.0.0.1:{reserve_port()}/0", f"unix://:{SECRET}@{tmp_path / 'none'}"):
        with pytest.raises(BrokerError, match=r"no broker answers at (redis://127|unix:///)") as caught:
            asyncio.run(wait_for_broker(url, timeout_s=0.1))
        assert SECRET not in caught.value.message
        dispatcher = JobDispatcher(url, heartbeat_timeout_s=60, credential=CREDENTIALS.of)
        with pytest.raises(BrokerError) as caught:
            asyncio.run(dispatcher.cancel("job"))
        assert SECRET not in caught.value.message


def test_a_password_on_the_command_line_is_refused() -> None:
    command = [sys.executable, "-m", "cli.main", "worker", "--json", "--broker-url", f"redis://:{SECRET}@host"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "process list" in json.loads(done.stdout)["error"]["message"]
    assert SECRET not in done.stdout + done.stderr


def test_tls_is_spoken_by_daemon_celery_and_workers_and_a_stranger_s_certificate_refused(
    valkey: Valkey, tmp_path: Path
) -> None:
    own, key = make_certificate(tmp_path / "own")
    another, _ = make_certificate(tmp_path / "another")
    with tls_in_front_of(valkey.port, own, key) as port:

        def url(trusted: Path) -> str:
            return f"valkeys://:{SECRET}@127.0.0.1:{port}/1?ssl_ca_certs={trusted}"

        asyncio.run(wait_for_broker(url(own)))
        with JobChannel(url(own), "job-tls", 1) as channel:
            assert not channel.is_cancelled()
        app = make_celery(url(own))
        sent = app.send_task("some.task", queue="queue-tls")
        app.backend.store_result(sent.id, 7, "SUCCESS")
        assert sent.get(timeout=5) == 7
        app.close()
        with pytest.raises(BrokerError, match=r"no broker answers at rediss://127.*certificate") as caught:
            asyncio.run(wait_for_broker(url(another), timeout_s=0.1))
        assert SECRET not in caught.value.message


@contextmanager
def tls_in_front_of(target: int, certificate: Path, key: Path) -> Iterator[int]:
    """A port that speaks TLS and passes everything on to `target`; the embedded Valkey is built without TLS."""
    command = [sys.executable, "-c", TLS_PROXY, str(target), str(certificate), str(key)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        try:
            yield int(proxy.stdout.readline())
        finally:
            proxy.kill()


@pytest.mark.parametrize("name", FOLDERS)
def test_keeps_its_data_in_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name / "broker"
    broker = embedded_broker(folder)
    with subprocess.Popen(broker.command.argv, cwd=tmp_path, stdout=subprocess.DEVNULL) as server:
        try:
            asyncio.run(wait_for_broker(broker.url))
        finally:
            server.terminate()
    assert (folder / "appendonlydir").is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]
