"""The table `[server]` of the configuration: where the daemon listens, and who may ask it."""

import ipaddress
import re
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from reheatd.options import Options

ANY_ORIGIN = "*"
"""Stands for all origins in `server.cors_origins`."""
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9_.-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
"""An origin as browsers write it, for example `https://app.example.org` or `http://localhost:3000`."""


class ServerSection(Options):
    host: str = "127.0.0.1"
    """Address the gateway listens on."""
    port: int = Field(default=8000, ge=0, le=65535)
    """Port the gateway listens on; 0 picks a free one."""
    public_url: str | None = None
    """URL at which workers on other machines, and clients through a proxy, reach the gateway; default:
    http://host:port."""
    require_keys: bool | None = None
    """Whether everybody needs an API key (`reheatd keys create`). Default: only if `host` or `admin_host` is not a
    loopback address; it cannot be turned off there."""
    admin_key_file: Path | None = None
    """If keys are needed and there is none for administration, the daemon makes one called `first` when it starts, and
    writes it into this file, which only its owner can read. Default: it says how to make one, and does not start."""
    admin_port: int | None = Field(default=None, ge=0, le=65535)
    """Port for administration (`/reheatd/v1`), which is then not on `port`; 0 picks a free one. Default: one port for
    everything."""
    admin_host: str = "127.0.0.1"
    """Address that `admin_port` is on."""
    tls_certificate: Path | None = None
    """PEM file with the server's certificate, followed by those that it was signed with; clients then use https.
    `public_url` must have a name that is in the certificate. Default: no TLS."""
    tls_key: Path | None = None
    """PEM file with the certificate's private key, without a password."""
    cors_origins: list[str] = Field(default=[])
    """Origins whose web pages may ask this server, for example `["http://localhost:3000"]`. `["*"]` means all, and
    needs API keys. Without keys, such a page may administer, too. Default: none."""
    drain_timeout_s: float = Field(default=20.0, ge=0)
    """Longest wait for requests in flight when the daemon stops or a version is replaced, in seconds."""
    max_concurrent_per_key: int | None = Field(default=None, ge=1)
    """Largest number of requests that one client may have in flight; further ones get 429. A client is known by its API
    key, or by its address if it has none. Rollouts of jobs are not counted. Default: no limit."""
    max_logprobs: int | None = Field(default=1_000_000, ge=1)
    """Largest number of top log-probabilities that one request may ask for: answers x tokens x top_logprobs. While an
    engine writes them as JSON, it answers nobody else. Rollouts of jobs are not limited."""
    engine_wait_s: float = Field(default=60.0, ge=0)
    """How long a request waits while no engine can take it, for example during a restart, in seconds. After that it
    gets 503 with `Retry-After`."""
    silence_timeout_s: float = Field(default=600.0, gt=0)
    """Longest time a client waits without a byte from the engine, in seconds. After that the client gets 504, or an
    error in its stream. An answer that is not streamed comes in one piece, and may take ten times as long as answers of
    its length have taken so far, if that is longer."""

    @property
    def needs_keys(self) -> bool:
        """Whether everybody but jobs needs a key."""
        return self.wide_host is not None if self.require_keys is None else self.require_keys

    @property
    def wide_host(self) -> str | None:
        """An address of the server that other machines may reach; None if there is none."""
        hosts = [self.host] if self.admin_port is None else [self.host, self.admin_host]
        return next((host for host in hosts if not is_loopback(host)), None)

    @property
    def scheme(self) -> Literal["http", "https"]:
        return "http" if self.tls_certificate is None else "https"

    @model_validator(mode="after")
    def _safe(self) -> "ServerSection":
        wide = self.wide_host
        if self.require_keys is False and wide is not None:
            raise ValueError(
                f"require_keys = false would let everybody in who reaches {wide}; leave it out, or listen on 127.0.0.1"
            )
        if self.public_url is not None and not is_http_url(self.public_url):
            raise ValueError(
                f"public_url = {self.public_url!r} is no URL of a server; write it as https://reheatd.example.org:8000"
            )
        for origin in self.cors_origins:
            if origin == ANY_ORIGIN and not self.needs_keys:
                raise ValueError(
                    "cors_origins = ['*'] would let every web page that somebody visits administer this server; name "
                    "the origins, or ask for keys (require_keys = true)"
                )
            if origin != ANY_ORIGIN and not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"cors_origins has {origin!r}, which is no origin as browsers send it; write scheme, host and port "
                    "alone, in small letters, such as 'http://localhost:3000'"
                )
        if (self.tls_certificate is None) != (self.tls_key is None):
            given, other = ("tls_certificate", "tls_key") if self.tls_certificate else ("tls_key", "tls_certificate")
            raise ValueError(f"{given} is of no use without {other}; give both")
        if self.admin_port and self.admin_port == self.port:
            raise ValueError(f"admin_port = {self.admin_port} is the port of the clients; choose another one")
        return self


def is_loopback(host: str) -> bool:
    """Whether a name or an address always means the machine that asks."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name; what it resolves to may change
        return host == "localhost"


def is_http_url(text: str) -> bool:
    """Whether this is the URL of an HTTP server."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
