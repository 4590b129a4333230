"""The demonstration's client: it asks one question after the other over the OpenAI API and counts the answers."""

import asyncio
import itertools
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from reheatd.access.client import api_key, tls_for

READING_S = 8.0
QUESTIONS = (
    "What is 7 + 5?",
    "Name three colours of the rainbow.",
    "What is the capital of France?",
    "Tell me one fact about the moon.",
    "What is 12 - 4?",
    "Give me a word that rhymes with cat.",
    "Why is the sky blue?",
    "What do bees make?",
)


@dataclass
class Tally:
    """What the client saw."""

    sent: int = 0
    failed: int = 0
    by_model: Counter[str] = field(default_factory=Counter)
    latencies: list[tuple[float, float]] = field(default_factory=list)
    """For every answer, the time at which it ended and the seconds it took."""
    errors: list[str] = field(default_factory=list)


class AskingClient:
    """Streams chat completions of model `policy` in a thread until it is stopped, with a pause to read each of them.

    Retries are off, so that every failure that a user would see is counted.
    """

    def __init__(self, base_url: str, *, max_tokens: int = 16) -> None:
        self.tally = Tally()
        self._base_url = base_url
        self._max_tokens = max_tokens
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._ask()), name="client", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> Tally:
        """Waits until the present question is answered, and returns the tally."""
        self._stopping.set()
        self._thread.join()
        return self.tally

    async def _ask(self) -> None:
        import openai

        key = api_key() or "none"  # the library insists on one
        http = openai.DefaultAsyncHttpxClient(verify=tls_for(self._base_url), trust_env=False)
        async with openai.AsyncOpenAI(
            base_url=f"{self._base_url}/v1", api_key=key, max_retries=0, http_client=http
        ) as client:
            for question in itertools.cycle(QUESTIONS):
                if self._stopping.wait(READING_S):
                    return
                self.tally.sent += 1
                started = time.time()
                try:
                    stream = await client.chat.completions.create(
                        model="policy",
                        messages=[{"role": "user", "content": question}],
                        max_tokens=self._max_tokens,
                        stream=True,
                    )
                    model, finished = "", False
                    async for chunk in stream:
                        model = chunk.model or model
                        finished = finished or any(choice.finish_reason for choice in chunk.choices)
                    if not finished:
                        raise ConnectionError("the stream ended without a finish reason")
                except (openai.OpenAIError, ConnectionError) as error:
                    self.tally.failed += 1
                    self.tally.errors.append(f"{type(error).__name__}: {error}")
                    continue
                self.tally.by_model[model] += 1
                self.tally.latencies.append((time.time(), time.time() - started))
