"""Clients of every kind that ask without pause: streams, whole answers, pinned versions, and clients that hang up."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

SILENCE_S = 60.0
"""A client that gets no byte for so long counts its request as failed."""


@dataclass
class Seen:
    """What the clients saw."""

    latencies: list[float] = field(default_factory=list)
    """Seconds from the request to the last byte, of each answer that was read to its end."""
    asked: Counter[str] = field(default_factory=Counter)
    """Requests by kind of client."""
    failures: list[str] = field(default_factory=list)
    by_version: Counter[str] = field(default_factory=Counter)


class Clients:
    """Keeps asking the gateway at `url`.

    Args:
        pinned: Names the version that a client with a pinned version asks next.
    """

    def __init__(self, url: str, pinned: Callable[[], str]) -> None:
        self.seen = Seen()
        self._url = url
        self._pinned = pinned
        self._number = 0

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
        async with aiohttp.ClientSession(self._url, timeout=timeout) as http:
            stop = asyncio.Event()
            kinds = ("stream", "stream", "whole", "pinned", "hung up")
            clients = [asyncio.create_task(self._keep_asking(http, kind, stop)) for kind in kinds]
            try:
                yield
            finally:
                stop.set()
                await asyncio.gather(*clients)

    async def _keep_asking(self, http: aiohttp.ClientSession, kind: str, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._number += 1
            self.seen.asked[kind] += 1
            began = time.monotonic()
            try:
                await self._ask(http, kind)
            except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
                self.seen.failures.append(f"{kind}: {type(error).__name__}: {error}")
                await asyncio.sleep(0.5)  # as a client that tries again would do
            else:
                if kind != "hung up":
                    self.seen.latencies.append(time.monotonic() - began)

    async def _ask(self, http: aiohttp.ClientSession, kind: str) -> None:
        body: dict[str, Any] = {
            "model": self._pinned() if kind == "pinned" else "policy",
            "messages": [{"role": "user", "content": f"Write the word number {self._number % 97}."}],
            "max_tokens": 64 if kind == "hung up" else 8 + self._number % 25,
            "ignore_eos": True,
            "stream": kind in ("stream", "hung up"),
        }
        async with http.post("/v1/chat/completions", json=body) as answer:
            if answer.status != 200:
                raise ValueError(f"HTTP {answer.status}: {(await answer.text())[:200]}")
            self.seen.by_version[answer.headers["x-reheatd-version"]] += 1
            if kind == "hung up":
                await answer.content.readany()
                answer.close()
            elif kind == "stream":
                await self._read_stream(answer)
            elif (await answer.json())["choices"][0]["finish_reason"] is None:
                raise ValueError("the answer has no finish reason")

    @staticmethod
    async def _read_stream(answer: aiohttp.ClientResponse) -> None:
        finished = False
        async for line in answer.content:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if "error" in event:
                    raise ValueError(event["error"]["message"])
                finished = finished or any(choice["finish_reason"] for choice in event["choices"])
        if not finished:
            raise ValueError("the stream ended without a finish reason")
