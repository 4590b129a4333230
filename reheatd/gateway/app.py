"""The OpenAI-compatible surface: it passes on everything that vLLM accepts, with the model name resolved.

In the request body, `model` is changed: the alias `policy` becomes the version that is promoted at this moment.
`vllm_xargs` tells the engine's entropy tap who it decodes for, and a fraction of the requests also ask for logprobs
(see `live_logprobs`). The request holds a lease on its version until its last byte is delivered, so that a swap can
wait for it.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import aiohttp
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from reheatd.access.answers import RETRY_AFTER_S, error_response
from reheatd.access.caller import Caller, caller_of
from reheatd.adapters.store import AdapterStore
from reheatd.adapters.swap import SwapManager
from reheatd.engine.busy_time import Asker
from reheatd.engine.client import IDLE_CONNECTION_S
from reheatd.engine.pool import EnginePool, Replica
from reheatd.engine.slots import AdapterSlots
from reheatd.errors import (
    BadInputError,
    EngineUnavailableError,
    ModelNotFoundError,
    NotSupportedError,
    ReheatdError,
)
from reheatd.gateway.affinity import prompt_prefix
from reheatd.gateway.headers import OF_THE_CLIENT, OF_THE_ENGINE, end_to_end
from reheatd.gateway.limits import ConcurrencyLimit, LogprobLimit, client_of
from reheatd.gateway.live_logprobs import LiveLogprobs, MeasuredRequest
from reheatd.gateway.metering import Meter
from reheatd.gateway.own_fields import check_fields
from reheatd.gateway.request_body import read_body
from reheatd.gateway.silence import Silence
from reheatd.gateway.stored_responses import stored_response, without_storing
from reheatd.gateway.stream import RelayedStream, unless_disconnected
from reheatd.gateway.surface import RESPONSES, SURFACE, ClientRoute
from reheatd.metrics.traffic import BROKEN, Traffic, Watch
from reheatd.names import ALIAS_NAME, BASE_MODEL_NAME, parse_version_name, rollout_job, version_name
from reheatd.tap.wire import TapSource, tags
from reheatd.tracing.requests import RequestTraces, trace_of

log = logging.getLogger(__name__)

VERSION_HEADER = "x-reheatd-version"
ENGINE_HEADER = "x-reheatd-engine"
REQUEST_ID_HEADER = "x-request-id"
LONGEST_REQUEST_ID = 128
CLIENT_CLOSED_REQUEST = 499


@dataclass
class RequestCounts:
    """Counts of requests since the start."""

    total: int = 0
    failed: int = 0
    """Requests that were answered with 5xx or broken off by the engine, but not those whose client left."""


class _GoneMeanwhile(Exception):
    """The version that a request was meant for gave its place to another one while the request waited for an engine."""


class Gateway:
    """The routes of the OpenAI surface in front of the engines.

    Args:
        max_model_len: Tokens of prompt and answer together that the engines accept.
        engine_wait_s: How long a request waits for an engine that can take it, once the server has started.
        readiness: Says what the server waits for while it starts, beginning with "starting".
    """

    def __init__(
        self,
        pool: EnginePool,
        slots: AdapterSlots,
        swaps: SwapManager,
        store: AdapterStore,
        live: LiveLogprobs | None = None,
        traffic: Traffic | None = None,
        traces: RequestTraces | None = None,
        *,
        max_model_len: int = 1024,
        max_concurrent_per_key: int | None = None,
        logprob_limit: LogprobLimit | None = None,
        silence: Silence | None = None,
        engine_wait_s: float = 0.0,
        readiness: Callable[[], str] = lambda: "ready",
    ) -> None:
        self.counts = RequestCounts()
        self._pool = pool
        self._slots = slots
        self._swaps = swaps
        self._store = store
        self._live = live
        self._traffic = traffic or Traffic(CollectorRegistry())
        self._traces = traces
        self._max_model_len = max_model_len
        self._limit = ConcurrencyLimit(max_concurrent_per_key)
        self._logprob_limit = logprob_limit or LogprobLimit(None, 0)
        self._silence = silence or Silence(pool, least_s=600.0, longest=1024)
        self._engine_wait_s = engine_wait_s
        self._readiness = readiness
        self._session: aiohttp.ClientSession | None = None

    def routes(self) -> list[Route]:
        return [
            *(Route(route.path, partial(self._proxy, route), methods=["POST"]) for route in SURFACE),
            Route(f"{RESPONSES.path}/{{response_id}}", stored_response, methods=["GET"]),
            Route(f"{RESPONSES.path}/{{response_id}}/cancel", stored_response, methods=["POST"]),
            Route("/v1/models", self._models, methods=["GET"]),
            Route("/v1/models/{name}", self._model, methods=["GET"]),
        ]

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _models(self, request: Request) -> Response:
        caller = caller_of(request)
        shown = [self._describe(name) for name in self._names() if caller.may_ask(name)]
        return JSONResponse({"object": "list", "data": shown})

    async def _model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if not caller_of(request).may_ask(name):
            raise _unknown(name)
        self._swaps.model_for(name)
        return JSONResponse(self._describe(name))

    def _names(self) -> list[str]:
        return [ALIAS_NAME, BASE_MODEL_NAME, *(version_name(version) for version in self._store.versions())]

    def _describe(self, name: str) -> dict[str, Any]:
        root = version_name(self._swaps.promoted) if name == ALIAS_NAME else name
        return {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "reheatd",
            "root": root,
            "max_model_len": self._max_model_len,
        }

    async def _proxy(self, route: ClientRoute, request: Request) -> Response:
        self.counts.total += 1
        watch = self._traffic.begin(route.path, route.token_mark)
        if self._traces is not None:
            self._traces.begin(request, watch)
        # The engine repeats the id in every event of a stream, so a long one would make a short answer huge.
        request_id = request.headers.get(REQUEST_ID_HEADER, "")[:LONGEST_REQUEST_ID] or uuid.uuid4().hex
        try:
            response = await self._forward(route, request, request_id, watch)
        except ReheatdError as error:
            if error.status >= 500:
                self.counts.failed += 1
            response = error_response(error)
        except BaseException:
            watch.close()
            raise
        watch.status = str(response.status_code)
        if watch.source == "client":  # a job asks a new rollout adapter every few steps
            watch.version = response.headers.get(VERSION_HEADER)
        if not isinstance(response, RelayedStream):
            watch.close()
        response.headers[REQUEST_ID_HEADER] = request_id
        return response

    async def _forward(self, route: ClientRoute, request: Request, request_id: str, watch: Watch) -> Response:
        body = await read_body(request)
        state = self._readiness()
        if state.startswith("starting"):
            raise EngineUnavailableError(f"the server is {state}; try again in {RETRY_AFTER_S} s")
        check_fields(body)
        if route is RESPONSES:
            without_storing(body)
        caller = caller_of(request)
        watch.source = "client" if caller.job is None else "job"
        name = body.get("model", ALIAS_NAME)
        if not isinstance(name, str):
            raise BadInputError(f"model must be a string, got {name!r}; GET /v1/models lists the names", param="model")
        if not caller.may_ask(name):
            raise _unknown(name)
        deadline = time.monotonic() + self._engine_wait_s
        if not self._pool.is_able and await unless_disconnected(request, self._until_able(deadline)) is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        while True:
            with ExitStack() as claims:
                if caller.job is None:
                    self._logprob_limit.check(body)
                    claims.enter_context(self._limit.admit(client_of(request), caller.key and caller.key.concurrency))
                target = await self._lease(name, claims)
                with suppress(_GoneMeanwhile):
                    return await self._answer(route, request, request_id, dict(body), target, claims, deadline, watch)

    async def _until_able(self, deadline: float) -> Literal[True]:
        """Waits until an engine can take a request.

        Raises:
            EngineUnavailableError: None can by `deadline`, in seconds of the monotonic clock.
        """
        with self._traffic.waiting.track_inprogress():
            await self._pool.until_able(max(0.0, deadline - time.monotonic()))
        return True

    async def _answer(
        self,
        route: ClientRoute,
        request: Request,
        request_id: str,
        body: dict[str, Any],
        target: str,
        claims: ExitStack,
        deadline: float,
        watch: Watch,
    ) -> Response:
        """Returns the engine's answer; if it is a stream, it takes over the claims until it ends."""
        headers = end_to_end(request.headers, OF_THE_CLIENT)
        headers[REQUEST_ID_HEADER] = request_id
        headers["content-type"] = "application/json"
        headers["accept-encoding"] = "identity"  # aiohttp would ask for gzip, which the client may not want
        number = parse_version_name(target)
        version = target if number is None else version_name(number)
        body["model"] = self._slots.engine_name(target)
        measured: MeasuredRequest | None = None
        meter: Meter | None = None
        caller, trace = caller_of(request), trace_of(request)
        if trace is not None:
            trace.version, trace.job = version, caller.job and caller.job.job_id
            trace.ask(headers)
        if route.metered:
            limited = caller.quota is not None and caller.quota.counts_tokens
            if limited or (trace is not None and trace.is_recorded):
                quota, usage = caller.quota if limited else None, None if trace is None else trace.usage
                meter = Meter(quota, body, usage, usage_on_request=route.usage_on_request)
        if route.decodes:
            source = _traffic_source(version, caller)
            if route.measurable and self._live is not None:
                measured = self._live.choose(route.path, body, *source)
            if measured is not None:
                body |= measured.options
            xargs = body.get("vllm_xargs") or {}
            if isinstance(xargs, dict):  # the engine refuses anything else
                body["vllm_xargs"] = {**xargs, **tags(*source)}
        upstream: aiohttp.ClientResponse | None = None
        streaming = False
        try:
            if meter is not None:
                meter.sent(await request.body())
            sending = self._send(route.path, body, headers, claims, deadline, watch.source)
            sent = await unless_disconnected(request, sending)
            if sent is None:
                return Response(status_code=CLIENT_CLOSED_REQUEST)
            upstream, replica = sent
            if trace is not None:
                trace.engine = replica.name
            answer_headers = end_to_end(upstream.headers, OF_THE_ENGINE)
            answer_headers[VERSION_HEADER] = version
            answer_headers[ENGINE_HEADER] = replica.name
            if upstream.content_type == "text/event-stream":
                streaming = True
                if isinstance(answers := body.get("n"), int):  # the engine also takes the number as text
                    watch.answers = answers
                filters = [each for each in (watch, meter, measured) if each is not None]
                claims.callback(watch.close)
                failed = partial(self._failed_stream, watch)
                taken = claims.pop_all()
                return RelayedStream(upstream, replica, filters, taken, answer_headers, failed, route.names_events)
            content = await unless_disconnected(request, upstream.read())
            if content is None:
                return Response(status_code=CLIENT_CLOSED_REQUEST)
            if upstream.status == 404 and _is_unknown_route(content):
                raise NotSupportedError(
                    f"the model that is served does not support {route.path}; it writes text, for example at "
                    "/v1/chat/completions"
                )
            if upstream.status == 404 and target != BASE_MODEL_NAME:
                if not self._slots.is_loaded(target):
                    raise _GoneMeanwhile
                # The engine was restarted a moment ago and does not have its adapters back yet.
                raise EngineUnavailableError(f"{target} is being loaded again; try again in {RETRY_AFTER_S} s")
            if upstream.status >= 500:
                if await replica.has_died():
                    raise EngineUnavailableError(f"the engine broke down; try again in {RETRY_AFTER_S} s")
                self.counts.failed += 1
            if meter is not None:
                meter.answer(content)
            if measured is not None and upstream.status == 200:
                content = measured.answer(content)
            return Response(content, upstream.status, headers=answer_headers)
        except aiohttp.SocketTimeoutError as error:
            raise self._silence.error(body) from error
        except aiohttp.ClientError as error:
            log.warning("engine unavailable: %s", error)
            raise EngineUnavailableError(
                f"the engine cannot be reached at the moment ({type(error).__name__}); try again in {RETRY_AFTER_S} s"
            ) from error
        finally:
            if upstream is not None and not streaming:
                upstream.close()

    async def _send(
        self,
        path: str,
        body: dict[str, Any],
        headers: dict[str, str],
        claims: ExitStack,
        deadline: float,
        asker: Asker,
    ) -> tuple[aiohttp.ClientResponse, Replica]:
        """Sends a request, and returns the beginning of the answer with the engine that gives it.

        The request counts as in flight on that engine for as long as `claims` is open. If an engine accepts no
        connection, the next one is tried; if none does, the request waits for one until `deadline`. If an engine breaks
        a connection, no other is tried, because a request that kills an engine must not be sent to the next one.
        """
        prefix = prompt_prefix(body) if len(self._pool.replicas) > 1 else None
        data, timeout = json.dumps(body).encode(), self._silence.timeout(body)
        tried: list[Replica] = []
        while True:
            replica = self._pool.pick(prefix, tried=tried)
            with ExitStack() as occupied:
                occupied.enter_context(replica.occupied(asker))
                try:
                    own = headers | replica.client.authorization
                    upstream = await self._open().post(f"{replica.url}{path}", data=data, headers=own, timeout=timeout)
                except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                    log.warning("%s cannot be reached: %s", replica.name, error)
                    replica.responsive = False
                    tried.append(replica)
                    if all(each in tried for each in self._pool.serving()):
                        await self._until_able(deadline)
                        tried.clear()
                else:
                    claims.push(occupied.pop_all())
                    return upstream, replica

    async def _lease(self, name: str, claims: ExitStack) -> str:
        """Loads the model `name` if needed, adds a lease on it to `claims`, and returns the engine's name for it."""
        while True:
            target = self._swaps.model_for(name)
            if target == BASE_MODEL_NAME or self._slots.is_loaded(target):
                # There is no await between resolving the alias and taking the lease, so a drain never misses this
                # request.
                claims.enter_context(self._slots.lease(target))
                return target
            await self._swaps.load_on_demand(target)

    def _failed_stream(self, watch: Watch, error: aiohttp.ClientError) -> ReheatdError:
        """Counts a stream that the engine does not finish, and returns the error that the client gets."""
        self.counts.failed += 1
        watch.status = BROKEN
        if isinstance(error, aiohttp.SocketTimeoutError):
            return self._silence.error({"stream": True})
        log.warning("the engine broke off a stream: %s", error)
        return EngineUnavailableError(f"the engine broke off the stream ({type(error).__name__}); try again")

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_CONNECTION_S),
                auto_decompress=False,
            )
        return self._session


def _traffic_source(version: str, caller: Caller) -> tuple[str, TapSource]:
    """What the entropy tap counts a request's tokens for: the version that is asked, or a job's own policy."""
    return rollout_job(version) or version, "live" if caller.job is None else "rollout"


def _is_unknown_route(content: bytes) -> bool:
    """Whether the engine says that it has no such route, rather than no such model."""
    try:
        return json.loads(content) == {"detail": "Not Found"}
    except ValueError:
        return False


def _unknown(name: str) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"the model {name[:200]!r} does not exist, or this key may not ask it; GET /v1/models lists the names",
        param="model",
    )
