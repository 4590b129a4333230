"""Samples rollouts from the served engine, under the job's own adapter versions.

`ServedSampler` talks to the gateway, so that rollouts come from the same engine, kernels and sampling code as the
users' traffic. Training code is synchronous; the requests run on an event loop in a separate thread.
"""

import asyncio
import itertools
import logging
import shutil
import threading
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from reheatd.access.client import tls_for
from reheatd.engine.client import EngineClient, Sample
from reheatd.entropy.meter import EntropyMeter
from reheatd.entropy.probes import ProbeSet
from reheatd.errors import BadInputError, EngineError, SlotsFullError
from reheatd.jobs.contracts import JobBase
from reheatd.json_lines import Messages, Prompts
from reheatd.measures import EntropyEstimate
from reheatd.names import BASE_MODEL_NAME, version_name
from reheatd.tasks.problem import Problem
from workers.policy import Policy
from workers.sampling.background import Background
from workers.sampling.retries import Patience
from workers.sampling.rollout import Batch, Rollout
from workers.sampling.seeds import completion_seed

Result = TypeVar("Result")

logger = logging.getLogger(__name__)

LOOK_UP_S = 1.0
"""How often a job that waits for the engine looks whether it was cancelled, in seconds."""


class EventLoopThread(AbstractContextManager["EventLoopThread"]):
    """An asyncio loop in a separate thread, so that connections stay alive while the main thread computes."""

    def __init__(self) -> None:
        self._changing = threading.Lock()
        self._running: set[Future[Any]] = set()
        self._is_interrupted = False

    def __enter__(self) -> "EventLoopThread":
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="job-io", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.run(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, coroutine: Coroutine[Any, Any, Result], on_wait: Callable[[], None] | None = None) -> Result:
        """Runs a coroutine on the loop, and waits for its result.

        Args:
            on_wait: Called every `LOOK_UP_S` seconds of the wait. An exception from it ends the coroutine and the wait.

        Raises:
            CancelledError: Another thread is inside `interrupted`.
        """
        with self._changing:
            if self._is_interrupted:
                coroutine.close()
                raise CancelledError
            running = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
            self._running.add(running)
        try:
            while True:
                try:
                    return running.result(LOOK_UP_S if on_wait is not None else None)
                except TimeoutError:
                    if running.done() or on_wait is None:
                        raise
                if on_wait is not None:
                    on_wait()
        finally:
            running.cancel()  # without effect on one that is done
            with self._changing:
                self._running.discard(running)

    @contextmanager
    def interrupted(self) -> Iterator[None]:
        """Inside the context, whatever other threads run here ends at once."""
        with self._changing:
            self._is_interrupted = True
            running = list(self._running)
        for one in running:
            one.cancel()
        try:
            yield
        finally:
            self._is_interrupted = False


class ServedSampler(AbstractContextManager["ServedSampler"]):
    """Samples through the gateway. Snapshots of the student become rollout adapters of the job.

    Args:
        on_progress: Called after each answer with the number of answered requests and of all requests. An exception
            from it ends the sampling.
        on_wait: Called every second while an answer is waited for, likewise.
        credential: The job's credential for the gateway; None if that asks for none.
    """

    def __init__(
        self,
        spec: JobBase,
        probes: ProbeSet,
        on_progress: Callable[[int, int], None] | None = None,
        on_wait: Callable[[], None] | None = None,
        *,
        credential: str | None = None,
    ) -> None:
        self.model = version_name(spec.parent_version) if spec.parent_version else BASE_MODEL_NAME
        self._spec = spec
        self._credential = credential
        self._probes = probes
        self._on_progress = on_progress
        self._on_wait = on_wait
        self.probed: list[Rollout] = []
        """Answers of the sampled version to the probes; empty until its entropy has been measured."""
        self._published: list[Path] = []
        self._io = EventLoopThread()
        self._background = ThreadPoolExecutor(max_workers=1, thread_name_prefix="job-rollouts")

    def __enter__(self) -> "ServedSampler":
        self._io.__enter__()
        self._client = EngineClient(self._spec.gateway_url, api_key=self._credential)
        self._io.run(self._client.__aenter__())
        probes = self._spec.probes
        self._meter = EntropyMeter(
            self._client,
            self._probes,
            max_tokens=probes.max_tokens,
            top_k=probes.top_k,
            confidence=probes.confidence,
            at_once=self._spec.sequences_at_once,
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._background.shutdown()
        self._io.run(self._client.close())
        self._io.__exit__(*error)

    def publish(self, policy: Policy, step: int) -> None:
        folder = self._spec.output_dir / f"rollout-{step}"
        policy.save(folder, self._spec.model_path)
        self.load(folder, step)
        # The daemon has unregistered all but the last two by now, so the files of the others can be deleted.
        self._published.append(folder)
        for old in self._published[:-2]:
            shutil.rmtree(old, ignore_errors=True)
        del self._published[:-2]

    def load(self, folder: Path, step: int) -> None:
        """Makes the adapter in `folder`, which is inside the job's own, the version that is sampled from.

        While the engine or the daemon is away, or all adapter slots are in use, it waits for as long as sampling does.

        Raises:
            EngineError: The daemon refuses the adapter, or does not answer for too long.
        """
        asked = Patience(self._spec.retry_s).repeat(lambda: self._ask_to_load(folder.resolve(), step))
        self.model = self._io.run(asked, self._on_wait)
        self.probed = []

    async def _ask_to_load(self, folder: Path, step: int) -> str:
        url = f"{self._spec.gateway_url}/reheatd/v1/jobs/{self._spec.job_id}/rollout-adapter"
        try:
            # The environment's proxies are not used, as for sampling.
            async with httpx.AsyncClient(
                timeout=120, headers=self._client.authorization, verify=tls_for(url), trust_env=False
            ) as http:
                response = await http.post(url, json={"path": str(folder), "step": step})
        except httpx.HTTPError as error:
            raise EngineError(f"the daemon at {self._spec.gateway_url} did not answer POST {url}: {error}") from error
        if response.is_error:
            refused = EngineError(f"POST {url} answered {response.status_code}: {response.text[:300]}")
            # Full slots are a conflict to everybody else; a job waits for one, as for an engine that is away.
            is_full = response.status_code == SlotsFullError.status and _code_of(response) == SlotsFullError.code
            refused.upstream_status = 503 if is_full else response.status_code
            raise refused
        return response.json()["model"]

    @contextmanager
    def as_base(self) -> Iterator["ServedSampler"]:
        """Inside the context, the bare base is sampled from."""
        model, self.model = self.model, BASE_MODEL_NAME
        try:
            yield self
        finally:
            self.model = model

    def sample(
        self, prompts: Prompts, *, n: int, max_tokens: int, temperature: float, seed: int, top_p: float = 1.0
    ) -> list[list[Rollout]]:
        return self.sample_all([Batch(prompts, n, max_tokens, temperature, seed, top_p)])[0]

    def sample_all(self, batches: Sequence[Batch]) -> list[list[list[Rollout]]]:
        """Samples several batches at once, each like `sample`.

        One batch after the other would leave the engine half idle while the last answers of each batch are completed.
        """
        return self._io.run(self._sample_all(batches), self._on_wait)

    def check_chats(self, problems: Sequence[Problem]) -> None:
        """Checks that the policy's chat template takes the problems' chats; one per sequence of roles is tried.

        Raises:
            BadInputError: It refuses one; the message says where that stands, and its roles.
        """
        firsts: dict[str, Problem] = {}
        for problem in problems:
            firsts.setdefault(", ".join(str(message["role"]) for message in problem.messages), problem)
        patience = Patience(self._spec.retry_s)

        async def check() -> None:
            for roles, problem in firsts.items():
                try:
                    await patience.repeat(lambda problem=problem: self._client.render(self.model, problem.messages))
                except EngineError as error:
                    if error.upstream_status != 400:
                        raise
                    raise BadInputError(
                        f"{problem.place}: the policy's chat template refuses a chat of the roles {roles}: "
                        f"{error.message}; change the task's prompts, or name another template in policy.chat_template",
                        param="policy.chat_template",
                    ) from error

        self._io.run(check(), self._on_wait)

    def max_model_len(self) -> int:
        """Largest number of tokens of prompt and answer together that the engine takes.

        Raises:
            EngineError: The gateway does not say so.
        """
        asked = Patience(self._spec.retry_s).repeat(lambda: self._client.max_model_len(self.model))
        return self._io.run(asked, self._on_wait)

    def prompt_tokens(self, prompts: Prompts) -> list[int]:
        """Tokens of each prompt by the policy's chat template."""
        slots, patience = asyncio.Semaphore(self._spec.sequences_at_once), Patience(self._spec.retry_s)

        async def one(prompt: Messages) -> int:
            async with slots:
                return len(await patience.repeat(lambda: self._client.render(self.model, prompt)))

        async def every() -> list[int]:
            asked = [asyncio.create_task(one(prompt)) for prompt in prompts]
            try:
                return await asyncio.gather(*asked)
            finally:
                await _cancel(asked)

        return self._io.run(every(), self._on_wait)

    async def _sample_all(self, batches: Sequence[Batch]) -> list[list[list[Rollout]]]:
        slots = asyncio.Semaphore(self._spec.sequences_at_once)
        patience = Patience(self._spec.retry_s)
        answered = self._counter(sum(len(batch.prompts) for batch in batches))

        async def one(batch: Batch, index: int, number: int) -> list[Sample]:
            async with slots:
                return await patience.repeat(
                    lambda: self._client.chat(
                        self.model,
                        batch.prompts[index],
                        temperature=batch.temperature,
                        top_p=batch.top_p,
                        max_tokens=batch.max_tokens,
                        seed=completion_seed(batch.seed, index, batch.n, number),
                    ),
                )

        async def group(batch: Batch, index: int) -> list[Rollout] | EngineError:
            # A request for each completion: one for all would keep its slots until the longest of them ends.
            asked = [asyncio.create_task(one(batch, index, number)) for number in range(batch.n)]
            try:
                samples = await asyncio.gather(*asked)
            except EngineError as error:
                return error
            finally:
                await _cancel(asked)
            answered()
            return self._rollouts([*itertools.chain(*samples)])

        tasks = [[asyncio.create_task(group(batch, i)) for i in range(len(batch.prompts))] for batch in batches]
        try:
            return [self._usable(await asyncio.gather(*asked)) for asked in tasks]
        finally:
            await _cancel([*itertools.chain(*tasks)])

    def _usable(self, answers: Sequence[list[Rollout] | EngineError]) -> list[list[Rollout]]:
        errors = [answer for answer in answers if isinstance(answer, EngineError)]
        for error in errors:
            logger.warning("a prompt got no completion from %s: %s", self.model, error)
        if errors and len(errors) == len(answers):
            raise errors[0]
        return [[] if isinstance(answer, EngineError) else answer for answer in answers]

    def _counter(self, of: int) -> Callable[[], None]:
        """A function to call after each of `of` answers, which reports the progress."""
        done = itertools.count(1)

        def count() -> None:
            if self._on_progress is not None:
                self._on_progress(next(done), of)

        return count

    def _rollouts(self, samples: Sequence[Sample]) -> list[Rollout]:
        return [self._rollout(sample) for sample in samples if sample.token_ids]

    def _rollout(self, sample: Sample) -> Rollout:
        return Rollout(
            prompt_ids=sample.prompt_ids,
            token_ids=sample.token_ids,
            text=sample.text,
            logprobs=sample.logprobs,
            model=self.model,
            truncated=sample.finish_reason == "length",
        )

    def in_background(self, work: Callable[[], Result]) -> Background[Result]:
        return Background(self._background.submit(work), self._io.interrupted)

    def measure_entropy(self, seed: int) -> EntropyEstimate:
        measuring = Patience(self._spec.retry_s).repeat(
            lambda: self._meter.measure(self.model, seed=seed, on_sample=self._counter(len(self._probes)))
        )
        measured = self._io.run(measuring, self._on_wait)
        self.probed = self._rollouts(measured.samples)
        return measured.estimate


async def _cancel_others() -> None:
    """Cancels all other tasks of this loop, and waits until they have ended."""
    await _cancel(asyncio.all_tasks() - {asyncio.current_task()})


async def _cancel(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancels tasks, those that are done excepted, and waits until they have ended."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _code_of(response: httpx.Response) -> str | None:
    """The code of an OpenAI-style error; None if the answer is something else."""
    try:
        return response.json()["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return None
