"""Rollouts from the served engine, under the job's own adapter versions.

`ServedSampler` talks to the gateway, so that rollouts come from the same engine, kernels and sampling code as the
traffic of users. Training code is synchronous; the requests run on an event loop in a thread of their own.
"""

import asyncio
import logging
import shutil
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import httpx
from tenacity import AsyncRetrying, retry_if_exception, stop_before_delay, wait_exponential

from reheatd.engine.client import EngineClient, Sample
from reheatd.entropy.meter import EntropyMeter
from reheatd.entropy.probes import ProbeSet
from reheatd.errors import EngineError
from reheatd.jobs.contracts import JobBase
from reheatd.measures import EntropyEstimate
from reheatd.names import BASE_MODEL_NAME, version_name
from workers.policy import Policy
from workers.sampling.rollout import Rollout
from workers.task_data import Messages

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

MAX_CONCURRENT = 64
"""Requests in flight at once; more only queue in the engine."""
MAX_DELAY_S = 10.0


class EventLoopThread(AbstractContextManager["EventLoopThread"]):
    """An asyncio loop in a thread of its own: connections stay alive while the main thread computes."""

    def __enter__(self) -> "EventLoopThread":
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="job-io", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Runs a coroutine on the loop and waits for its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


class ServedSampler(AbstractContextManager["ServedSampler"]):
    """Samples through the gateway; snapshots of the student become rollout adapters of the job."""

    def __init__(self, spec: JobBase, probes: ProbeSet) -> None:
        self.model = version_name(spec.parent_version) if spec.parent_version else BASE_MODEL_NAME
        self._spec = spec
        self._probes = probes
        self._published: list[Path] = []
        self._io = EventLoopThread()

    def __enter__(self) -> "ServedSampler":
        self._io.__enter__()
        self._client = EngineClient(self._spec.gateway_url)
        self._io.run(self._client.__aenter__())
        probes = self._spec.probes
        self._meter = EntropyMeter(
            self._client,
            self._probes,
            max_tokens=probes.max_tokens,
            top_k=probes.top_k,
            confidence=probes.confidence,
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._io.run(self._client.close())
        self._io.__exit__(*error)

    def publish(self, policy: Policy, step: int) -> None:
        folder = self._spec.output_dir / f"rollout-{step}"
        policy.save(folder, self._spec.model_path)
        url = f"{self._spec.gateway_url}/reheatd/v1/jobs/{self._spec.job_id}/rollout-adapter"
        body = self._admin("POST", url, {"path": str(folder.resolve()), "step": step})
        self.model = body["model"]
        # The daemon has unregistered all but the last two by now; files go last.
        self._published.append(folder)
        for old in self._published[:-2]:
            shutil.rmtree(old, ignore_errors=True)
        del self._published[:-2]

    def _admin(self, method: str, url: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            response = httpx.request(method, url, json=body, timeout=120)
        except httpx.HTTPError as error:
            raise EngineError(
                f"the daemon at {self._spec.gateway_url} did not answer {method} {url}: {error}"
            ) from error
        if response.is_error:
            raise EngineError(f"{method} {url} answered {response.status_code}: {response.text[:300]}")
        return response.json()

    def sample(
        self, prompts: Sequence[Messages], *, n: int, max_tokens: int, temperature: float, seed: int
    ) -> list[list[Rollout]]:
        return self._io.run(self._sample_all(prompts, n, max_tokens, temperature, seed))

    async def _sample_all(
        self, prompts: Sequence[Messages], n: int, max_tokens: int, temperature: float, seed: int
    ) -> list[list[Rollout]]:
        slots = asyncio.Semaphore(MAX_CONCURRENT)
        deadline = time.monotonic() + self._spec.retry_s

        async def one(index: int, messages: Messages) -> list[Rollout] | EngineError:
            request_seed = (seed * 100_003 + index) % 2**31
            async with slots:
                try:
                    samples = await _retry_until(
                        deadline,
                        lambda: self._client.chat(
                            self.model, messages, n=n, temperature=temperature, max_tokens=max_tokens, seed=request_seed
                        ),
                    )
                except EngineError as error:
                    return error
            return [self._rollout(sample) for sample in samples if sample.token_ids]

        answers = await asyncio.gather(*(one(index, messages) for index, messages in enumerate(prompts)))
        errors = [answer for answer in answers if isinstance(answer, EngineError)]
        for error in errors:
            logger.warning("a prompt got no completion from %s: %s", self.model, error)
        if errors and len(errors) == len(prompts):
            raise errors[0]
        return [[] if isinstance(answer, EngineError) else answer for answer in answers]

    def _rollout(self, sample: Sample) -> Rollout:
        return Rollout(
            prompt_ids=sample.prompt_ids,
            token_ids=sample.token_ids,
            text=sample.text,
            logprobs=sample.logprobs,
            model=self.model,
            truncated=sample.finish_reason == "length",
        )

    def measure_entropy(self, seed: int) -> EntropyEstimate:
        deadline = time.monotonic() + self._spec.retry_s
        measuring = _retry_until(deadline, lambda: self._meter.measure(self.model, seed=seed))
        return self._io.run(measuring).estimate


async def _retry_until(deadline: float, request: Callable[[], Awaitable[Result]]) -> Result:
    """The result of `request`, repeated while it fails for a passing reason, such as an engine that restarts."""

    async def attempt() -> Result:
        return await request()

    retrying = AsyncRetrying(
        retry=retry_if_exception(lambda error: isinstance(error, EngineError) and error.is_transient),
        wait=wait_exponential(max=MAX_DELAY_S),
        stop=stop_before_delay(deadline - time.monotonic()),
        reraise=True,
    )
    return await retrying(attempt)
