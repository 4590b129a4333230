"""The style sheet, scripts and libraries of the pages, from the package."""

import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
"""Types of what is served, by the end of the name; licences and notes beside the files are not."""


class Assets:
    """Keeps all files in memory; they are a few hundred kilobytes. A file's address changes with its content."""

    def __init__(self) -> None:
        self._files = dict(_served(files("reheatd.dashboard") / "static"))
        self._digests = {name: hashlib.sha256(content).hexdigest()[:12] for name, content in self._files.items()}

    def url(self, name: str) -> str:
        """The address of a file, e.g. of `dashboard.css`."""
        return f"/ui/static/{name}?v={self._digests[name]}"

    def routes(self) -> list[Route]:
        return [Route("/ui/static/{name:path}", self._answer, methods=["GET"])]

    async def _answer(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._files:
            raise HTTPException(404)
        headers = {"cache-control": "public, max-age=31536000, immutable"}
        return Response(self._files[name], media_type=TYPES[name.rpartition(".")[2]], headers=headers)


def _served(folder: Traversable, prefix: str = "") -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _served(entry, f"{prefix}{entry.name}/")
        elif entry.name.rpartition(".")[2] in TYPES:
            found.append((f"{prefix}{entry.name}", entry.read_bytes()))
    return found
