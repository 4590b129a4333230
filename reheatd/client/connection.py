"""What both clients share: where the daemon is, who asks, and what a failed connection means."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypedDict

import httpx

from reheatd.access.client import CA_FILE_ENV, URL_ENV, api_key, bearer, daemon_url, tls_for
from reheatd.client.answers import read_answer
from reheatd.client.requests import Answer, Request
from reheatd.errors import BadInputError, DaemonUnreachableError

TIMEOUT_S = 600.0
"""Longest wait for an answer, in seconds: a promotion proves, flips and drains before it answers."""
CONNECT_S = 5.0
SILENCE = httpx.Timeout(60.0, connect=CONNECT_S)
"""Longest silence of a stream of events, in which the daemon sends a sign of life every 15 seconds."""
DATA = "data: "
"""What a line of a stream of events begins with that holds an event."""


class HttpOptions(TypedDict):
    """Arguments of both kinds of HTTP clients."""

    timeout: httpx.Timeout
    limits: httpx.Limits
    headers: dict[str, str]
    verify: Any
    trust_env: bool


class Connection:
    """The daemon's address, and how to speak to it.

    Args:
        url: Address of the daemon; default: `REHEATD_URL`, or http://127.0.0.1:8000.
        key: API key; default: that of `REHEATD_API_KEY` or `REHEATD_API_KEY_FILE`, if there is one.
        ca_file: Certificates to trust beside the system's; default: `REHEATD_CA_FILE`.
        timeout_s: Longest wait for an answer, in seconds.
        named_by: How the user names the address, for messages.

    Raises:
        BadInputError: A file of the environment cannot be used.
    """

    def __init__(
        self, url: str | None, key: str | None, ca_file: Path | str | None, timeout_s: float, named_by: str
    ) -> None:
        self.url = (url or daemon_url()).rstrip("/")
        self._named_by = named_by
        # The environment's proxies are not used, because the daemon is on this machine or near it.
        # A connection is closed after its answer. So none is left open, and none is used that the daemon just closed.
        self.options = HttpOptions(
            timeout=httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s)),
            limits=httpx.Limits(max_keepalive_connections=0),
            headers=bearer(api_key(key)),
            verify=tls_for(self.url, None if ca_file is None else Path(ca_file)),
            trust_env=False,
        )

    def address(self, request: Request[Any]) -> str:
        return self.url + request.path

    def read(self, request: Request[Answer], response: httpx.Response) -> Answer:
        """The answer; raises as `read_answer`."""
        retry_after = response.headers.get("retry-after")
        return read_answer(request, self.url, response.status_code, response.content, retry_after)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turns failures of the connection into errors that say what to do.

        Raises:
            BadInputError: The address is none.
            DaemonUnreachableError: There was no answer.
        """
        try:
            yield
        except (httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError) as error:
            raise BadInputError(
                f"{self._named_by} {self.url} is not an address ({error}); it looks like http://host:8000", param="url"
            ) from error
        except httpx.ConnectError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise DaemonUnreachableError(
                    f"the certificate of {self.url} is not trusted ({error}); name the file of its authority in "
                    f"{CA_FILE_ENV}, and the server by a name that is in the certificate"
                ) from error
            raise DaemonUnreachableError(
                f"no daemon answers at {self.url}; start one with `reheatd serve`, or name its address with "
                f"{self._named_by} or in {URL_ENV}"
            ) from error
        except httpx.HTTPError as error:
            raise DaemonUnreachableError(f"the daemon at {self.url} did not answer: {error or repr(error)}") from error


def like(build: Callable[..., Any], call: Callable[..., Any]) -> None:
    """Gives the method `call` the name, docstring and arguments of the function `build` that makes its request."""
    signature = inspect.signature(build)
    itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    shown = signature.replace(
        parameters=[itself, *signature.parameters.values()], return_annotation=inspect.Signature.empty
    )
    setattr(call, "__signature__", shown)  # noqa: B010 - help() reads it, pyright knows no such
    call.__name__ = build.__name__
    call.__doc__ = build.__doc__
