"""The command line's side of the daemon's HTTP API."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO
from urllib.parse import quote

import httpx

from reheatd import errors
from reheatd.access.client import CA_FILE_ENV, KEY_ENV, api_key, bearer, tls_for
from reheatd.errors import (
    AuthenticationError,
    BadInputError,
    ConflictError,
    DaemonUnreachableError,
    EngineError,
    NotFoundError,
    NotPermittedError,
    QueueFullError,
    ReheatdError,
)

TIMEOUT_S = 600.0
"""Longest wait for an answer, in seconds: a promotion proves, flips and drains before it answers."""
KINDS = {kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ReheatdError)}
"""Kinds of errors by the code that the daemon answers with."""


class DaemonClient:
    """Speaks to the daemon at `url`, with the environment's key. Every failure is an error that says what to do."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        # The environment's proxies are not used, because the daemon is on this machine or near it.
        # A connection is closed after its answer, so that a command leaves none open.
        self._http = httpx.Client(
            timeout=httpx.Timeout(TIMEOUT_S, connect=5.0),
            limits=httpx.Limits(max_keepalive_connections=0),
            headers=bearer(api_key()),
            verify=tls_for(self.url),
            trust_env=False,
        )

    def get(self, path: str, **params: Any) -> Any:
        return self._request("GET", path, params=params)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        return self._request("POST", path, json=body)

    def put(self, path: str, content: Iterator[bytes], **params: Any) -> Any:
        """Sends `content` as it is made; an error that making it raises goes through."""
        return self._request("PUT", path, content=content, params=params)

    def delete(self, path: str) -> Any:
        return self._request("DELETE", path)

    def download(self, path: str, file: BinaryIO) -> None:
        """Writes an answer that is no JSON into `file`, as it comes."""
        with self._explained(), self._http.stream("GET", self.url + path) as response:
            if response.is_success:
                for part in response.iter_bytes():
                    file.write(part)
                return
            response.read()
        self._body(response)

    def _request(self, method: str, path: str, **arguments: Any) -> Any:
        with self._explained():
            response = self._http.request(method, self.url + path, **arguments)
        return self._body(response)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns failures of the connection into errors that say what to do."""
        try:
            yield
        except (httpx.UnsupportedProtocol, httpx.InvalidURL, UnicodeError) as error:
            raise BadInputError(
                f"--url {self.url} is not an address ({error}); it looks like http://host:8000"
            ) from error
        except httpx.ConnectError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise DaemonUnreachableError(
                    f"the certificate of {self.url} is not trusted ({error}); name the file of its authority in "
                    f"{CA_FILE_ENV}, and the server by a name that is in the certificate"
                ) from error
            raise DaemonUnreachableError(
                f"no daemon answers at {self.url}; start one with `reheatd serve`, or name its address with --url"
            ) from error
        except httpx.HTTPError as error:
            raise DaemonUnreachableError(f"the daemon at {self.url} did not answer: {error or repr(error)}") from error

    def _body(self, response: httpx.Response) -> Any:
        """The JSON of an answer.

        Raises:
            ReheatdError: The answer is an error, or is not from reheatd.
        """
        try:
            body = response.json()
        except ValueError as error:
            raise DaemonUnreachableError(
                f"what answers at {self.url} is not reheatd (HTTP {response.status_code}); name its address with --url"
            ) from error
        if response.is_success and isinstance(body, dict):
            return body
        raise _as_error(response.status_code, body)


def job_path(job_id: str) -> str:
    """The path of a job, whatever its id holds."""
    return f"/reheatd/v1/jobs/{quote(job_id.encode('utf-8', 'surrogateescape'), safe='')}"


def _as_error(status: int, body: Any) -> ReheatdError:
    """The exception that the daemon's error object stands for, so that it has the same exit code as in the daemon."""
    detail = body.get("error") if isinstance(body, dict) else None
    if not isinstance(detail, dict) or "message" not in detail:
        return EngineError(f"the daemon answered HTTP {status}: {body}")
    by_status: dict[int, type[ReheatdError]] = {
        401: AuthenticationError,
        403: NotPermittedError,
        404: NotFoundError,
        409: ConflictError,
        429: QueueFullError,
    }
    by_status_only = by_status.get(status, BadInputError if 400 <= status < 500 else EngineError)
    kind = KINDS.get(str(detail.get("code")), by_status_only)
    hint = f"; set {KEY_ENV} to a key for administration" if status in (401, 403) else ""
    return kind(str(detail["message"]) + hint, param=detail.get("param"))
