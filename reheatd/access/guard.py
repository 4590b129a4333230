"""The guard at the door of the HTTP server: it finds out who sends each request, and whether they may come in.

It is plain ASGI and touches only the beginning of a request, so that streams flow as if it were not there.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from reheatd.access.answers import error_response
from reheatd.access.caller import ACTOR, Caller
from reheatd.access.jobs import JOB_PREFIX, JobCredentials
from reheatd.access.keys import KeyRing
from reheatd.access.quotas import Quotas
from reheatd.errors import AuthenticationError, NotPermittedError, ReheatdError

PAGES_PREFIX = "/ui/"
"""Where the pages of the dashboard are, besides `/`. Browsers send the key for them in a cookie."""
LOGIN_PATH = "/ui/login"
OPEN_PREFIX = "/ui/static/"
KEY_COOKIE = "reheatd_key"
OPEN_PATHS = frozenset(("/health",))
"""Paths that everybody may ask; their answers say nothing about the policy."""
CLIENT_PATHS = frozenset(("/tokenize", "/detokenize"))
CLIENT_PREFIX = "/v1/"
ROLLOUT_ADAPTER = re.compile(r"/reheatd/v1/jobs/([^/]+)/rollout-adapter")
"""The routes on which a job loads and drops its own rollout adapters."""


@dataclass(frozen=True)
class Access:
    """What the guard asks.

    `is_current` says whether a job runs at this moment, in this attempt.
    """

    keys: KeyRing
    quotas: Quotas
    credentials: JobCredentials
    is_current: Callable[[str, int], bool]
    required: bool
    """Whether everybody but jobs needs a key."""


class Guard:
    """An ASGI application that lets requests through to `app`, with `request.state.caller` set, or refuses them."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, headers = scope["path"], Headers(scope=scope)
        try:
            caller = self._admit(path, token_of(headers) or (cookie_of(headers) if is_page(path) else None))
        except ReheatdError as error:
            to_login = is_page(path) and "text/html" in headers.get("accept", "")
            answer = _login(scope) if to_login else error_response(error)
            await answer(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        acting = ACTOR.set(caller.name)
        try:
            await self._app(scope, receive, send)
        finally:
            ACTOR.reset(acting)

    def _admit(self, path: str, token: str | None) -> Caller:
        """Whoever has `token`, if they may ask `path`.

        Raises:
            AuthenticationError: A key is needed, and there is none or it is not known.
            NotPermittedError: The key or the job's credential is not for this path.
            RateLimitError: The key has used up its requests or tokens.
        """
        if path in OPEN_PATHS or path == LOGIN_PATH or path.startswith(OPEN_PREFIX):
            return Caller()
        caller = self._identify(token)
        rollouts = ROLLOUT_ADAPTER.fullmatch(path)
        if rollouts is not None:
            if caller.job is None or caller.job.job_id != rollouts[1]:
                raise NotPermittedError(
                    f"only job {rollouts[1][:80]} itself may load and drop its rollout adapters", param="job_id"
                )
            return caller
        if path in CLIENT_PATHS or path.startswith(CLIENT_PREFIX):
            if caller.quota is not None:
                caller.quota.admit()
            return caller
        if caller.job is not None:
            raise NotPermittedError(f"the credential of job {caller.job.job_id} does not open {path[:200]}")
        if caller.key is not None and caller.key.role != "admin":
            raise NotPermittedError(
                f"key {caller.key.name} is for inference, and {path[:200]} needs a key for administration"
            )
        return caller

    def _identify(self, token: str | None) -> Caller:
        access = self._access
        if token is not None and token.startswith(JOB_PREFIX):
            # Nobody sends such a credential by chance, so it counts where no key is needed as well.
            claim = access.credentials.read(token)
            if claim is None:
                raise AuthenticationError("this credential of a job was not made by this daemon")
            if not access.is_current(claim.job_id, claim.attempt):
                raise NotPermittedError(
                    f"attempt {claim.attempt} at job {claim.job_id} does not run any more; its worker was taken for "
                    "dead, or the job is over"
                )
            return Caller(job=claim)
        key = access.keys.find(token) if token is not None else None
        if key is not None:
            return Caller(key=key, quota=access.quotas.of(key))
        if not access.required:
            return Caller()
        if token is None:
            raise AuthenticationError(
                "no API key was sent; send one as `Authorization: Bearer KEY` (`reheatd keys create NAME` makes one)"
            )
        raise AuthenticationError("this API key is not known or was revoked; `reheatd keys list` shows those that are")


def is_page(path: str) -> bool:
    """Whether a path belongs to the dashboard."""
    return path == "/" or path.startswith(PAGES_PREFIX)


def cookie_of(headers: Headers) -> str | None:
    """The key that a browser keeps; None if it has none."""
    return cookie_parser(headers.get("cookie", "")).get(KEY_COOKIE)


def _login(scope: Scope) -> RedirectResponse:
    """Leads to the login, which leads back to the page that was asked for."""
    query = scope["query_string"].decode("latin-1")
    page = f"{scope['path']}?{query}" if query else scope["path"]
    return RedirectResponse(f"{LOGIN_PATH}?next={quote(page)}", 303)


def token_of(headers: Headers) -> str | None:
    """The key that a request carries, as a bearer token or in `x-api-key`; None if it has none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("x-api-key", "").strip() or None
