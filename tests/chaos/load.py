"""Clients that ask a daemon all the time, and what became of each of their requests."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from tests.daemon import PROMPT
from tests.waiting import HANGS_S

PAUSE_S = 0.2
"""Pause of each client after an answer, so that the clients leave the machine some time for what is tested."""
PAUSE_AFTER_FAILURE_S = 0.3
STREAM_TOKENS = 24
ANSWER_TOKENS = 8
CLIENTS: tuple["Client", ...]

Away = Literal["engine", "daemon"]
"""What a fault takes away from clients: `daemon` stands for everything."""


@dataclass(frozen=True)
class Client:
    """One client, which asks for `model` again and again."""

    name: str
    model: str
    streams: bool


CLIENTS = (
    Client("first stream", "policy", True),
    Client("second stream", "policy", True),
    Client("whole answers", "policy", False),
)


@dataclass
class Request:
    """One request and its fate. Times are of the monotonic clock."""

    client: Client
    began: float
    ended: float = 0.0
    status: int | None = None
    """Status of the answer; None if there was no answer."""
    version: str | None = None
    """The version that answered, by the header of the answer."""
    model: str | None = None
    """The model that the engine says it asked."""
    retry_after: bool = False
    whole: bool = False
    """Whether the answer came with everything that belongs to it, to the last byte."""
    problem: str = ""

    def __str__(self) -> str:
        fate = "whole" if self.whole else self.problem
        return f"{self.client.name}: {self.began:.2f} to {self.ended:.2f} s, status {self.status}, {fate}"


@dataclass
class Outage:
    """A time in which a fault takes something away from clients.

    Attributes:
        struck: When what is taken away was seen to be gone; requests that began before may be broken off.
    """

    what: Away
    began: float
    struck: float | None = None
    ended: float | None = None

    def excuses(self, request: Request) -> bool:
        """Whether the fault made it unavoidable that this request failed.

        Without a daemon, connections break and are refused. Without an engine, the daemon still answers: requests that
        were in flight break off, and later ones wait or get 503 with Retry-After.
        """
        if self.ended is not None and request.began > self.ended:
            return False
        if request.ended < self.began:
            return False
        refused = request.status == 503 and request.retry_after
        if self.what == "daemon":
            return refused or request.status is None or request.problem.startswith("broken off")
        in_flight = self.struck is None or request.began <= self.struck
        broken = request.status in (None, 502) or request.problem.startswith("broken off")
        return refused or (in_flight and broken)


class Load:
    """Runs the clients in a thread of its own, inside the context."""

    def __init__(self, url: str, clients: tuple[Client, ...] = CLIENTS) -> None:
        self.requests: list[Request] = []
        self.outages: list[Outage] = []
        self._url = url
        self._clients = clients
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="load", daemon=True)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    @property
    def failed(self) -> list[Request]:
        return [request for request in list(self.requests) if not request.whole]

    @property
    def unexplained(self) -> list[Request]:
        """Failed requests that no outage excuses."""
        return [request for request in self.failed if not any(outage.excuses(request) for outage in self.outages)]

    def has_answered_all_since(self, moment: float) -> bool:
        """Whether each client has had a whole answer to a request that it sent after `moment`."""
        served = {request.client for request in list(self.requests) if request.whole and request.began >= moment}
        return served == set(self._clients)

    async def _run(self) -> None:
        limits = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=self._url, timeout=HANGS_S, trust_env=False, limits=limits) as http:
            await asyncio.gather(*(self._ask_again_and_again(http, client) for client in self._clients))

    async def _ask_again_and_again(self, http: httpx.AsyncClient, client: Client) -> None:
        while not self._stopping.is_set():
            request = Request(client, time.monotonic())
            try:
                await (_stream if client.streams else _answer)(http, request)
            except httpx.HTTPError as error:
                request.problem = f"broken off by {error!r}"
            request.ended = time.monotonic()
            self.requests.append(request)
            await asyncio.sleep(PAUSE_S if request.whole else PAUSE_AFTER_FAILURE_S)


async def _stream(http: httpx.AsyncClient, request: Request) -> None:
    body = _body(request.client, STREAM_TOKENS) | {"stream": True}
    finished = done = False
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        _read_head(request, response)
        if response.status_code != 200:
            request.problem = (await response.aread()).decode()[:300]
            return
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                done = True
            elif line.startswith("data: "):
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    request.problem = f"broken off: {chunk['error']}"
                    return
                request.model = chunk["model"]
                finished |= any(choice["finish_reason"] for choice in chunk["choices"])
    request.whole = finished and done
    request.problem = "" if request.whole else "broken off without an error"


async def _answer(http: httpx.AsyncClient, request: Request) -> None:
    response = await http.post("/v1/chat/completions", json=_body(request.client, ANSWER_TOKENS))
    _read_head(request, response)
    if response.status_code == 200:
        answer = response.json()
        request.model = answer["model"]
        request.whole = bool(answer["choices"][0]["finish_reason"])
    else:
        request.problem = response.text[:300]


def _body(client: Client, tokens: int) -> dict[str, Any]:
    return {"model": client.model, "messages": PROMPT, "max_tokens": tokens, "ignore_eos": True}


def _read_head(request: Request, response: httpx.Response) -> None:
    request.status = response.status_code
    request.version = response.headers.get("x-reheatd-version")
    request.retry_after = "retry-after" in response.headers


def eventually(condition: Callable[[], Any], what: str, longest_s: float = 180.0) -> Any:
    """Waits until `condition` returns something true, and returns it.

    Raises:
        AssertionError: It is not true after `longest_s` seconds; `what` says in words what was waited for.
    """
    deadline = time.monotonic() + longest_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"after {longest_s:.0f} s still not: {what}"
        time.sleep(0.02)
    return found
