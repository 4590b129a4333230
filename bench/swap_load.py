"""Clients that stream without pause, and keep the time and the logprob of every token they get."""

import asyncio
import itertools
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

VERSION_HEADER = "x-reheatd-version"


@dataclass
class Answer:
    """One streamed completion. Times are in seconds of the monotonic clock."""

    began: float
    version: str = ""
    """The version in the answer's header or, without one, the version that the side under test knows."""
    ended: float = 0.0
    times: list[float] = field(default_factory=list)
    """Time at which each chunk came."""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    """Raw logprobs of the sampled tokens, in nats."""
    error: str = ""


class StreamLoad:
    """Streams completions of one prompt at temperature 1, each with a seed and a length of its own.

    If all had one length, the streams would fall into step, and none would ever be delayed by another's prefill.

    Args:
        prompt_ids: The prompt. It is longer than a block of the prefix cache, so that answers use what earlier ones
            left there.
        tokens: Lengths of the shortest and the longest answer.
    """

    def __init__(self, url: str, model: str, prompt_ids: list[int], *, tokens: tuple[int, int]) -> None:
        self.url = url
        self.answers: list[Answer] = []
        """Answers that have ended, including failed ones."""
        self.version = ""
        """The version of answers without a header."""
        self._model = model
        self._prompt_ids = prompt_ids
        self._lengths = random.Random(0)
        self._tokens = tokens
        self._seed = 0
        self._http: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def running(self, streams: int) -> AsyncIterator[None]:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=120)
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as self._http:
            stop = asyncio.Event()
            clients = [asyncio.create_task(self._stream(stop)) for _ in range(streams)]
            try:
                yield
            finally:
                stop.set()
                await asyncio.gather(*clients)

    async def _stream(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            answer = await self.ask()
            if answer.error:
                await asyncio.sleep(0.1)  # as a client that tries again would do

    async def ask(self, first_token: "asyncio.Future[float] | None" = None) -> Answer:
        """Streams one answer; `first_token` gets the time at which its first token came."""
        assert self._http is not None
        self._seed += 1
        answer = Answer(time.monotonic(), self.version)
        length = self._lengths.randint(*self._tokens)
        body = {
            "model": self._model,
            "prompt": self._prompt_ids,
            "max_tokens": length,
            "temperature": 1.0,
            "seed": self._seed,
            "logprobs": 0,
            "ignore_eos": True,
            "return_token_ids": True,
            "stream": True,
        }
        try:
            async with self._http.post(f"{self.url}/v1/completions", json=body) as response:
                if response.status != 200:
                    raise ValueError(f"HTTP {response.status}: {(await response.text())[:200]}")
                answer.version = response.headers.get(VERSION_HEADER, answer.version)
                async for line in response.content:
                    if line.startswith(b"data: {"):
                        self._take(answer, json.loads(line[6:]))
                        if first_token is not None and answer.token_ids and not first_token.done():
                            first_token.set_result(time.monotonic())
            if len(answer.token_ids) != length:
                raise ValueError(f"{len(answer.token_ids)} of {length} tokens came")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            answer.error = f"{type(error).__name__}: {error}"
        answer.ended = time.monotonic()
        self.answers.append(answer)
        return answer

    @staticmethod
    def _take(answer: Answer, chunk: dict[str, Any]) -> None:
        if "error" in chunk:
            raise ValueError(chunk["error"]["message"])
        for choice in chunk["choices"]:
            ids = choice.get("token_ids") or []
            if ids:
                answer.times.append(time.monotonic())
                answer.token_ids += ids
                answer.logprobs += choice["logprobs"]["token_logprobs"]


def gaps(answers: list[Answer], begin: float, end: float) -> list[float]:
    """The seconds between tokens of an answer, for gaps that ended between `begin` and `end`."""
    return [
        later - earlier
        for answer in answers
        for earlier, later in itertools.pairwise(answer.times)
        if begin <= later < end
    ]
