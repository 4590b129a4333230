"""Ports for servers that are started later."""

import socket

import pytest

from reheatd.process.ports import reserve_port


def test_a_server_can_listen_on_its_port_and_nobody_else_gets_it() -> None:
    port = reserve_port()
    with socket.socket() as stranger, pytest.raises(OSError):
        stranger.bind(("127.0.0.1", port))
    with socket.socket() as client, pytest.raises(ConnectionRefusedError):
        client.connect(("127.0.0.1", port))
    with socket.create_server(("127.0.0.1", port)) as server, socket.create_connection(("127.0.0.1", port)):
        server.accept()[0].close()


def test_every_port_is_another() -> None:
    assert len({reserve_port() for _ in range(50)}) == 50
