"""The URL of a broker: what a user may write, the one form that redis-py takes, and the one that Celery takes.

redis-py, kombu and Celery each read URLs in their own way, accept different options, and some of their messages quote
what they could not read. So a URL is read here first, and they only get URLs that all of them understand. No message
and no `repr` of this module shows a password.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, quote, unquote, urlencode

from reheatd.errors import BadInputError

SCHEMES: dict[str, Literal["redis", "rediss", "unix"]] = {
    "redis": "redis",
    "rediss": "rediss",
    "valkey": "redis",
    "valkeys": "rediss",
    "unix": "unix",
    "redis+socket": "unix",
}
"""What a user may write, and what it means; `redis+socket` is Celery's name for `unix`."""
PORT = 6379
FORM = "it looks like redis://:password@host:6379/0, rediss:// with TLS, or unix:///path/to/socket"
HOST = re.compile(r"[\w.-]+|\[[0-9a-fA-F:.%]+\]", re.ASCII)
CERTIFICATES = {name: name for name in ("required", "optional", "none")} | {
    "CERT_REQUIRED": "required",
    "CERT_OPTIONAL": "optional",
    "CERT_NONE": "none",
}
TLS_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
TLS_OPTIONS = ("ssl_cert_reqs", "ssl_check_hostname", *TLS_FILES)


@dataclass(frozen=True)
class BrokerUrl:
    """A broker's URL in its parts; make it with `parse_broker_url`."""

    scheme: Literal["redis", "rediss", "unix"]
    place: str
    """Host, with an IPv6 address in brackets, or path of the socket."""
    port: int = PORT
    database: int = 0
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    tls: dict[str, str | bool] = field(default_factory=dict, repr=False)
    """Options of TLS by redis-py's names; empty without TLS."""

    def __str__(self) -> str:
        """The URL as redis-py takes it, with its password."""
        options = {name: str(value) for name, value in self.tls.items()}
        if self.scheme == "unix":
            options["db"] = str(self.database)
            return f"unix://{self._credentials()}{quote(self.place)}?{urlencode(options)}"
        return self._with_host() + (f"?{urlencode(options)}" if options else "")

    @property
    def address(self) -> str:
        """The URL without its credentials and options, for messages."""
        if self.scheme == "unix":
            return f"unix://{self.place}"
        return f"{self.scheme}://{self.place}:{self.port}/{self.database}"

    def for_celery(self) -> tuple[str, dict[str, Any]]:
        """The URL as Celery takes it, and Celery's TLS options; they are empty without TLS."""
        if self.scheme == "unix":
            return f"redis+socket://{self._credentials()}{quote(self.place)}?virtual_host={self.database}", {}
        return self._with_host(), dict(self.tls)

    def _with_host(self) -> str:
        return f"{self.scheme}://{self._credentials()}{self.place}:{self.port}/{self.database}"

    def _credentials(self) -> str:
        if not self.username and not self.password:
            return ""
        return f"{quote(self.username, safe='')}:{quote(self.password, safe='')}@"


def parse_broker_url(text: str) -> BrokerUrl:
    """Reads what a user wrote.

    The credentials end at the last `@`, so that a password may hold any character as it is; only a `%` before two
    hexadecimal digits has to be written as `%25`.

    Raises:
        BadInputError: The URL cannot be used; the message says why, and shows nothing of the credentials.
    """
    scheme, found, rest = text.strip().partition("://")
    if not text.strip():
        raise _unusable(f"is empty; {FORM}. Remove it, and REHEATD_BROKER__URL, for an embedded broker")
    if scheme in ("sentinel", "sentinels"):
        raise _unusable("names a Sentinel, which is not supported; name the primary itself")
    if not found or scheme not in SCHEMES:
        raise _unusable(f"is not the URL of a Redis or Valkey; {FORM}")
    credentials, at, location = rest.rpartition("@")
    if "://" in credentials:
        raise _unusable("names more than one broker; name one, and write %3A for a : before // in a password")
    username, colon, password = credentials.partition(":")
    if at and not colon:
        raise _unusable("has a name before the @ but no password; write :password@ or name:password@")
    options = _options(location.partition("?")[2])
    location = location.partition("?")[0]
    kind = SCHEMES[scheme]
    tls = _tls_options(options) if kind == "rediss" else {}
    database = options.pop("db", None) or options.pop("virtual_host", None)
    if options:
        raise _unusable(f"has an option after the ? that is not known there; {_known_options(kind)}")
    given = unquote(username), unquote(password)
    if kind == "unix":
        path = unquote(location)
        if not path.startswith("/") or path == "/":
            raise _unusable("names no socket; write unix:///path/to/socket with three slashes")
        return BrokerUrl(kind, path, 0, _database(database), *given)
    address, _, path = location.partition("/")
    host, port = _host_and_port(address)
    return BrokerUrl(kind, host, port, _database(database or path or None), *given, tls)


def broker_address(url: str) -> str:
    """The URL without its credentials and options, for messages.

    Raises:
        BadInputError: As `parse_broker_url`.
    """
    return parse_broker_url(url).address


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":") if re.search(r":\d*$", address) else (address, "", "")
    host = host if colon else address
    if not host:
        raise _unusable(f"names no host; {FORM}")
    if not HOST.fullmatch(host):
        raise _unusable(
            f"has no usable host and port after its credentials; {FORM}. Exactly one host can be named, and a password "
            "stands between : and @"
        )
    number = int(port) if port else PORT
    if not 0 < number < 1 << 16:
        raise _unusable("has a port that is not between 1 and 65535")
    return host, number


def _database(text: str | None) -> int:
    if text is None:
        return 0
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise _unusable("has a database that is not a number; the part after the host is a number, as in /0")
    return int(text)


def _options(query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise _unusable("has something other than name=value after its ?") from None
    if len(dict(pairs)) < len(pairs):
        raise _unusable("has an option twice after its ?")
    return dict(pairs)


def _tls_options(options: dict[str, str]) -> dict[str, str | bool]:
    """Takes the TLS options out of `options` and checks them."""
    certificates = options.pop("ssl_cert_reqs", "required")
    if certificates not in CERTIFICATES:
        raise _unusable(f"has an unusable ssl_cert_reqs; use {', '.join(sorted(set(CERTIFICATES.values())))}")
    tls: dict[str, str | bool] = {"ssl_cert_reqs": CERTIFICATES[certificates]}
    if (check := options.pop("ssl_check_hostname", None)) is not None:
        if check.lower() not in ("true", "false"):
            raise _unusable("has an unusable ssl_check_hostname; use true or false")
        tls["ssl_check_hostname"] = check.lower() == "true"
    for name in TLS_FILES:
        if (file := options.pop(name, None)) is not None:
            if not Path(file).is_file():
                raise _unusable(f"names a file in {name} that does not exist: {file}")
            tls[name] = file
    return tls


def _known_options(kind: str) -> str:
    return f"use db{', ' + ', '.join(TLS_OPTIONS) if kind == 'rediss' else ''}"


def _unusable(problem: str) -> BadInputError:
    return BadInputError(f"broker.url {problem}", param="broker.url")
