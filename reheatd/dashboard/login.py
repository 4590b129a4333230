"""Logging in: the browser keeps an API key for administration in a cookie that no script can read."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reheatd.access.guard import KEY_COOKIE
from reheatd.access.keys import KeyRing
from reheatd.dashboard.forms import read_form
from reheatd.dashboard.rendering import Renderer, leave_for

KEPT_S = 30 * 24 * 3600


class Login:
    """The page on which a browser is given a key to keep.

    Args:
        keys: The keys that are known.
    """

    def __init__(self, keys: KeyRing, renderer: Renderer) -> None:
        self._keys = keys
        self._renderer = renderer

    def routes(self) -> list[Route]:
        return [
            Route("/ui/login", self._page, methods=["GET"]),
            Route("/ui/login", self._login, methods=["POST"]),
            Route("/ui/logout", self._logout, methods=["POST"]),
        ]

    async def _page(self, request: Request) -> Response:
        return self._show(request, _next(request.query_params.get("next")), None)

    async def _login(self, request: Request) -> Response:
        form = await read_form(request)
        after = _next(form.get("next"))
        key = self._keys.find(form.get("key", "").strip())
        if key is None:
            return self._show(request, after, "This key is not known or was revoked.")
        if key.role != "admin":
            return self._show(
                request, after, f"Key {key.name} is for inference; these pages need one with --role admin."
            )
        answer = leave_for(after)
        answer.set_cookie(
            KEY_COOKIE,
            form["key"].strip(),
            max_age=KEPT_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    async def _logout(self, request: Request) -> Response:
        answer = leave_for("/ui/login", "You are logged out.")
        answer.delete_cookie(KEY_COOKIE)
        return answer

    def _show(self, request: Request, after: str, problem: str | None) -> Response:
        return self._renderer.page(request, "login.html", status=401 if problem else 200, next=after, problem=problem)


def _next(path: str | None) -> str:
    """Where to go after the login: only to a page of this server."""
    return path if path is not None and path.startswith("/") and not path.startswith(("//", "/\\")) else "/"
