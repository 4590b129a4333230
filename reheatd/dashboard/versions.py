"""The pages of versions: where each came from, what was measured of it, and what can be done with it."""

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from reheatd.adapters.store import AdapterStore
from reheatd.api.context import ApiContext
from reheatd.api.exports import tar_answer
from reheatd.dashboard.lineage_graph import draw
from reheatd.dashboard.rendering import Renderer
from reheatd.dashboard.version_facts import VersionFacts, exists, facts_of, infos, options_of
from reheatd.errors import BadInputError, NotFoundError, ReheatdError
from reheatd.files import folder_bytes
from reheatd.jobs.report import JobReport, read_report
from reheatd.names import parse_version, version_name

SHOWN = 50
"""Versions on one page of the list."""
FILE_TYPES = {".png": "image/png", ".md": "text/plain; charset=utf-8", ".json": "application/json"}
"""Files of a report that are served, by the end of the name."""
PLOTS = {
    "entropy_by_position.png": "Entropy by completion position",
    "logprob_by_position.png": "Log-probability of the sampled token by completion position",
    "token_kl.png": "KL of each token from the parent",
    "entropy_change.png": "Change of entropy of each token",
    "top_k.png": "Top candidates in the same states",
    "cka.png": "Hidden states of the same tokens, layer by layer",
    "pass_at_k.png": "pass@k on held-out problems",
    "curves.png": "Training, step by step",
}
"""What the plots of a report show, in the order in which they are shown."""


@dataclass(frozen=True)
class ReportView:
    """The report of the job that made a version."""

    figures: JobReport | None
    """None if the report cannot be read, or if an earlier reheatd wrote it."""
    problem: str | None
    files: list[str]
    """Names of the files that are served."""

    @property
    def plots(self) -> dict[str, str]:
        """Names of the plots, with what each shows."""
        named = {name: PLOTS[name] for name in PLOTS if name in self.files}
        others = [name for name in self.files if name.endswith(".png") and name not in named]
        return named | {name: name for name in others}


class VersionPages:
    def __init__(self, context: ApiContext, renderer: Renderer) -> None:
        self._context = context
        self._renderer = renderer

    def routes(self) -> list[Route]:
        return [
            Route("/ui/versions", self._list, methods=["GET"]),
            Route("/ui/versions/{version}", self._one, methods=["GET"]),
            Route("/ui/versions/{version}/export", self._export, methods=["GET"]),
            Route("/ui/versions/{version}/report/{name}", self._report_file, methods=["GET"]),
        ]

    async def _list(self, request: Request) -> Response:
        store = self._context.versions
        numbers = store.versions()[::-1]
        before = _before(request)
        newer = [number for number in numbers if before is not None and number >= before]
        shown = numbers[len(newer) : len(newer) + SHOWN]
        older = numbers[len(newer) + SHOWN :]
        known = set(numbers)
        parents = [
            (info.version, info.lineage.parent if info.lineage and info.lineage.parent in known else None)
            async for info in infos(store, [*newer, *shown])
        ]
        graph = dict(zip((version for version, _ in parents), draw(parents), strict=True))
        rows = await self._with_sizes(await self._facts(shown))
        return await asyncio.to_thread(
            self._renderer.page,
            request,
            "versions.html",
            rows=rows,
            graph=graph,
            numbers=numbers,
            promoted=store.promoted(),
            previous=store.previous(),
            newer=_page_before(numbers, len(newer) - SHOWN) if newer else None,
            older=older[0] + 1 if older else None,
            total=len(numbers),
        )

    async def _one(self, request: Request) -> Response:
        version, store = parse_version(request.path_params["version"]), self._context.versions
        (facts,) = await self._with_sizes([facts_of(self._context, version)])
        newer = [number for number in store.versions() if number > version]
        children = [
            info.version async for info in infos(store, newer) if info.lineage and info.lineage.parent == version
        ]
        return await asyncio.to_thread(
            self._renderer.page,
            request,
            "version.html",
            facts=facts,
            children=children,
            previous=store.previous(),
            promoted=store.promoted(),
            options=options_of(facts.lineage),
            report=await asyncio.to_thread(_report_in, store.report_path(version)),
        )

    async def _export(self, request: Request) -> Response:
        """The version's files as a download."""
        version = parse_version(request.path_params["version"])
        answer = await tar_answer(self._context.versions, version)
        answer.headers["content-disposition"] = f'attachment; filename="{version_name(version)}.tar"'
        return answer

    async def _report_file(self, request: Request) -> Response:
        name = request.path_params["name"]
        folder = self._context.versions.report_path(parse_version(request.path_params["version"]))
        content = None if folder is None else await asyncio.to_thread(_read_file, folder, name)
        if content is None:
            raise HTTPException(404)
        headers = {"x-content-type-options": "nosniff", "content-security-policy": "default-src 'none'; sandbox"}
        return Response(content, media_type=FILE_TYPES[Path(name).suffix], headers=headers)

    async def _facts(self, numbers: list[int]) -> list[VersionFacts]:
        found = []
        for number in numbers:
            if exists(self._context.versions, number):  # it may be deleted while the others are looked at
                found.append(facts_of(self._context, number))
            await asyncio.sleep(0)
        return found

    async def _with_sizes(self, facts: list[VersionFacts]) -> list[VersionFacts]:
        folders = [_folder(self._context.versions, each.version) for each in facts]
        sizes = await asyncio.to_thread(lambda: [folder and _bytes_in(folder) for folder in folders])
        return [replace(each, bytes=size) for each, size in zip(facts, sizes, strict=True)]


def _folder(versions: AdapterStore, version: int) -> Path | None:
    try:
        return versions.path(version) if version else None
    except NotFoundError:
        return None


def _bytes_in(folder: Path) -> int | None:
    try:
        return folder_bytes(folder)
    except OSError:  # it is being deleted
        return None


def _before(request: Request) -> int | None:
    """The number below which versions are listed; None for all.

    Raises:
        BadInputError: It is no number.
    """
    text = request.query_params.get("before")
    if text is not None and not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadInputError(f"before = {text!r} is not the number of a version", param="before")
    return None if text is None else int(text)


def _page_before(numbers: list[int], first: int) -> str:
    """The query of the page whose first entry is at `first`, which is at the front if that is below 0."""
    return "" if first <= 0 else f"?before={numbers[first] + 1}"


def _report_in(folder: Path | None) -> ReportView | None:
    if folder is None:
        return None
    try:
        figures, problem = read_report(folder), None
    except ReheatdError as error:
        figures, problem = None, error.message
    return ReportView(figures, problem, _served_files(folder))


def _served_files(folder: Path) -> list[str]:
    """The names of the plain files of a report that may be served; links lead out of the folder, so they are none."""
    return sorted(
        file.name for file in folder.iterdir() if file.suffix in FILE_TYPES and file.is_file() and not file.is_symlink()
    )


def _read_file(folder: Path, name: str) -> bytes | None:
    try:
        return (folder / name).read_bytes() if name in _served_files(folder) else None
    except FileNotFoundError:  # the version is being deleted
        return None
