"""The admin API: status, entropy, versions, jobs and journal, in JSON, with errors as OpenAI-style objects."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from reheatd.access.caller import caller_of
from reheatd.adapters.store import AdapterStore, VersionInfo
from reheatd.adapters.swap import SwapResult
from reheatd.api import parameters
from reheatd.api.context import ApiContext
from reheatd.api.exports import tar_answer
from reheatd.api.metrics import metrics_answer
from reheatd.api.openapi import openapi
from reheatd.api.operations import PREFIX
from reheatd.api.operator import Operator
from reheatd.api.schemas import (
    AdapterList,
    CurvesView,
    DeletedView,
    EntropyView,
    JobList,
    JournalView,
    LiveView,
    PromotionView,
    PruneRequest,
    Readiness,
    ResumedView,
    RolloutAdapterRequest,
    RolloutAdapterView,
    RolloutsView,
    VersionView,
)
from reheatd.api.status import learning_of, status_view
from reheatd.api.streams import as_json, with_list
from reheatd.errors import ArchiveInvalidError, BadInputError, NotFoundError
from reheatd.gateway.request_body import parse_body
from reheatd.jobs.attempts import newest_attempt
from reheatd.jobs.contracts import JobBase, parse_request
from reheatd.jobs.curves import read_curves
from reheatd.jobs.report import read_report
from reheatd.jobs.rollouts import read_rollouts
from reheatd.names import version_name
from reheatd.process.broker import BrokerError
from reheatd.validation import first_problem

Model = TypeVar("Model", bound=BaseModel)


def api_routes(context: ApiContext) -> list[Route]:
    """The routes of the admin API and `/health`. Use them with `reheatd.api.errors.exception_handlers`."""
    api = Api(context)
    job = f"{PREFIX}/jobs/{{job_id}}"
    return [
        Route("/health", api.health, methods=["GET"]),
        Route("/openapi.json", openapi, methods=["GET"]),
        Route("/metrics", api.metrics, methods=["GET"]),
        Route(f"{PREFIX}/status", api.status, methods=["GET"]),
        Route(f"{PREFIX}/entropy", api.entropy, methods=["GET"]),
        Route(f"{PREFIX}/entropy/measure", api.measure, methods=["POST"]),
        Route(f"{PREFIX}/entropy/live", api.live, methods=["GET"]),
        Route(f"{PREFIX}/adapters", api.adapters, methods=["GET"]),
        Route(f"{PREFIX}/adapters", api.import_adapter, methods=["PUT"]),
        Route(f"{PREFIX}/adapters/rollback", api.rollback, methods=["POST"]),
        Route(f"{PREFIX}/adapters/prune", api.prune, methods=["POST"]),
        Route(f"{PREFIX}/adapters/{{version}}", api.adapter, methods=["GET"]),
        Route(f"{PREFIX}/adapters/{{version}}", api.delete_adapter, methods=["DELETE"]),
        Route(f"{PREFIX}/adapters/{{version}}/files", api.export_adapter, methods=["GET"]),
        Route(f"{PREFIX}/adapters/{{version}}/promote", api.promote, methods=["POST"]),
        Route(f"{PREFIX}/jobs", api.submit_job, methods=["POST"]),
        Route(f"{PREFIX}/jobs", api.jobs, methods=["GET"]),
        Route(job, api.job, methods=["GET"]),
        Route(f"{job}/curves", api.curves, methods=["GET"]),
        Route(f"{job}/rollouts", api.rollouts, methods=["GET"]),
        Route(f"{job}/cancel", api.cancel_job, methods=["POST"]),
        Route(f"{job}/approve", api.approve_job, methods=["POST"]),
        Route(f"{job}/rollout-adapter", api.load_rollout_adapter, methods=["POST"]),
        Route(f"{job}/rollout-adapter", api.drop_rollout_adapters, methods=["DELETE"]),
        Route(f"{PREFIX}/control/resume", api.resume, methods=["POST"]),
        Route(f"{PREFIX}/journal", api.journal, methods=["GET"]),
    ]


class Api:
    """The endpoints, each with the name of its route."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._controller = context.controller
        self._operator = Operator(context.controller, context.ledger)

    async def health(self, request: Request) -> Response:
        status = self._context.readiness()
        return _answer(Readiness(status=status), 200 if status == "ready" else 503)

    async def metrics(self, request: Request) -> Response:
        context = self._context
        return metrics_answer(
            request.headers.get("accept"),
            await status_view(self._context),
            context.live.newest(),
            context.ledger.jobs.counts(),
            context.metrics,
        )

    async def status(self, request: Request) -> Response:
        return _answer(await status_view(self._context))

    async def entropy(self, request: Request) -> Response:
        baseline = self._context.monitor.baseline
        thresholds = self._context.monitor.thresholds
        view = EntropyView(
            baseline=baseline,
            threshold=thresholds.collapsed if thresholds else None,
            max_tokens=self._context.monitor.max_tokens,
            windows=[],
            learning=learning_of(self._context),
            sources=self._context.live.newest(),
        )
        return with_list(view, "windows", self._context.series.stream(parameters.last(request)))

    async def measure(self, request: Request) -> Response:
        """Measures a window now and answers with it; requests that come meanwhile are answered with the same one."""
        return _answer(await self._context.monitor.window_now())

    async def live(self, request: Request) -> Response:
        windows = self._context.live.stream(parameters.last(request), request.query_params.get("source"))
        return with_list(LiveView(windows=[]), "windows", windows)

    async def adapters(self, request: Request) -> Response:
        store = self._context.versions
        view = AdapterList(promoted=store.promoted(), adapters=[])
        return with_list(view, "adapters", as_json(_briefs(store)))

    async def adapter(self, request: Request) -> Response:
        versions, version = self._context.versions, parameters.version(request)
        info, folder = versions.get(version), versions.report_path(version)
        report = None if folder is None else await asyncio.to_thread(read_report, folder)
        return _answer(VersionView(**dict(info), report=report, report_dir=folder))

    async def import_adapter(self, request: Request) -> Response:
        """Takes an adapter's tar stream; the answer is the job that measures it."""
        source = request.query_params.get("source", "upload")
        if len(source) > 200 or not source.isprintable():
            raise BadInputError(f"source = {source[:80]!r} is no short line of text", param="source")
        try:
            job = await self._context.imports.receive(
                request.stream(), source=source, any_base=parameters.any_base(request)
            )
        except ClientDisconnect as error:
            raise ArchiveInvalidError("the archive is cut off; send it again") from error
        self._context.ledger.requested(f"{job.job_id} submitted to import {source}", job_id=job.job_id)
        return _answer(job, 202)

    async def export_adapter(self, request: Request) -> Response:
        """A version's files as a tar stream."""
        return await tar_answer(self._context.versions, parameters.version(request))

    async def delete_adapter(self, request: Request) -> Response:
        version = parameters.version(request)
        await self._operator.delete(version)
        return _answer(DeletedView(deleted=[version]))

    async def prune(self, request: Request) -> Response:
        asked = await _body(request, PruneRequest)
        return _answer(DeletedView(deleted=await self._operator.prune(asked.keep)))

    async def promote(self, request: Request) -> Response:
        return _answer(_promotion(await self._operator.promote(parameters.version(request))))

    async def rollback(self, request: Request) -> Response:
        return _answer(_promotion(await self._operator.rollback()))

    async def submit_job(self, request: Request) -> Response:
        return _answer(self._operator.submit(parse_request(parse_body(await request.body()))), 202)

    async def jobs(self, request: Request) -> Response:
        try:
            letters = await self._context.dispatcher.dead_letters()
        except BrokerError:
            letters = None
        return with_list(JobList(jobs=[], dead_letters=letters), "jobs", self._context.ledger.jobs.stream())

    async def job(self, request: Request) -> Response:
        return _answer(self._controller.job(request.path_params["job_id"]))

    async def curves(self, request: Request) -> Response:
        job_id = request.path_params["job_id"]
        spec = self._written_by_worker(job_id)
        points = [] if spec is None else await asyncio.to_thread(read_curves, spec.curves_file)
        return with_list(CurvesView(job_id=job_id, points=[]), "points", as_json(points))

    async def rollouts(self, request: Request) -> Response:
        job_id, last, step = request.path_params["job_id"], parameters.last(request), parameters.step(request)
        spec = self._written_by_worker(job_id)
        rows = [] if spec is None else await asyncio.to_thread(read_rollouts, spec.rollouts_file, step=step)
        view = RolloutsView(job_id=job_id, total=len(rows), rollouts=[])
        return with_list(view, "rollouts", as_json(rows[-last:]))

    async def cancel_job(self, request: Request) -> Response:
        return _answer(self._operator.cancel(request.path_params["job_id"]))

    async def approve_job(self, request: Request) -> Response:
        return _answer(self._operator.approve(request.path_params["job_id"]))

    async def load_rollout_adapter(self, request: Request) -> Response:
        asked = await _body(request, RolloutAdapterRequest)
        if asked.step < 0:
            raise BadInputError(f"step = {asked.step} is below 0", param="step")
        job_id = request.path_params["job_id"]
        job = caller_of(request).job
        model = await self._controller.load_rollout_adapter(
            job_id, Path(asked.path), asked.step, attempt=job and job.attempt
        )
        return _answer(RolloutAdapterView(model=model))

    async def drop_rollout_adapters(self, request: Request) -> Response:
        await self._controller.drop_rollout_adapters(request.path_params["job_id"])
        return Response(status_code=204)

    async def resume(self, request: Request) -> Response:
        return _answer(ResumedView(resumed=self._operator.resume()))

    async def journal(self, request: Request) -> Response:
        return with_list(JournalView(entries=[]), "entries", self._context.ledger.stream(parameters.last(request)))

    def _written_by_worker(self, job_id: str) -> JobBase | None:
        """The specification of a job with the folder of its newest attempt; None if it was not dispatched yet."""
        record = self._context.ledger.jobs.get(job_id)
        return record.spec and newest_attempt(record.spec, record.job.attempt)


def _answer(model: BaseModel, status: int = 200) -> JSONResponse:
    return JSONResponse(model.model_dump(mode="json"), status)


def _brief(info: VersionInfo) -> VersionInfo:
    return (
        info
        if info.lineage is None
        else info.model_copy(update={"lineage": info.lineage.model_copy(update={"proof": []})})
    )


def _briefs(store: AdapterStore) -> Iterator[VersionInfo]:
    for version in store.versions():
        with suppress(NotFoundError):  # it was deleted while the versions before it were sent
            yield _brief(store.get(version))


def _promotion(swapped: SwapResult) -> PromotionView:
    return PromotionView(
        version=swapped.to_version,
        name=version_name(swapped.to_version),
        from_version=swapped.from_version,
        seconds=swapped.seconds,
        proof=asdict(swapped.proof) if swapped.proof else None,
    )


async def _body(request: Request, model: type[Model]) -> Model:
    """The request's body as a `model`.

    Raises:
        BadInputError: The body is not valid JSON, or a field is unknown or unusable; `param` names it.
    """
    try:
        return model.model_validate(parse_body(await request.body()))
    except ValidationError as error:
        name, message = first_problem(error)
        raise BadInputError(message, param=name or "body") from error
