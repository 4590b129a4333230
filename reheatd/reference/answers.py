"""The reference's answers to the held-out problems: what it solves and the policy does not could be had back.

The reference is not served later, so it is asked while its engine runs for the baseline. Workers score its answers, as
they score all others.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from reheatd.engine.client import EngineClient, Sample
from reheatd.files import write_atomically
from reheatd.jobs.rollout_length import RolloutLength, deciding, room
from reheatd.measures import Contract
from reheatd.names import BASE_MODEL_NAME
from reheatd.options import TaskOptions
from reheatd.task_data import Problem, TaskData, problem_set_digest

Result = TypeVar("Result")

MAX_CONCURRENT = 64
"""Largest number of requests in flight at once; more would only queue in the engine."""


class AnswerKey(Contract):
    """What the answers depend on."""

    reference: str
    """Digest of the reference's files."""
    problem_set: str
    """Digest of the problems."""
    samples: int
    """Answers per problem."""
    max_tokens: int
    temperature: float
    top_p: float

    @classmethod
    def of(cls, reference: str, problems: Sequence[Problem], task: TaskOptions) -> "AnswerKey":
        """The key of the answers from which accuracy is measured.

        Args:
            task: Its `eval_max_tokens` must be set.
        """
        assert task.eval_max_tokens is not None
        return cls(
            reference=reference,
            problem_set=problem_set_digest(problems),
            samples=task.eval_samples,
            max_tokens=task.eval_max_tokens,
            temperature=task.eval_temperature,
            top_p=task.eval_top_p,
        )


class ReferenceAnswers(Contract):
    """Answers to held-out problems, in the order of the problems."""

    key: AnswerKey
    texts: list[list[str]]

    @classmethod
    def read(cls, file: Path) -> "ReferenceAnswers | None":
        """The stored answers; None if there are none, or those of another version of reheatd."""
        if not file.exists():
            return None
        try:
            return cls.model_validate_json(file.read_bytes())
        except ValidationError:
            return None

    def write(self, file: Path) -> None:
        write_atomically(file, self.model_dump_json().encode())


async def ask(client: EngineClient, key: AnswerKey, problems: Sequence[Problem]) -> ReferenceAnswers:
    """Samples the answers that the key describes.

    Raises:
        EngineError: The engine did not answer, or refused.
    """

    async def answers_to(seed: int, problem: Problem) -> list[str]:
        samples = await client.chat(
            BASE_MODEL_NAME,
            problem.messages,
            n=key.samples,
            temperature=key.temperature,
            top_p=key.top_p,
            max_tokens=key.max_tokens,
            seed=seed,
        )
        return [sample.text for sample in samples]

    return ReferenceAnswers(key=key, texts=await _of_each(problems, answers_to))


async def find_length(client: EngineClient, data: TaskData) -> RolloutLength:
    """The length of rollouts by the reference's answers, as `workers.rollout_length` finds it by a policy's.

    Raises:
        BadInputError: A prompt leaves no room for an answer.
        EngineError: The engine did not answer, or refused.
    """
    max_model_len = await client.max_model_len(BASE_MODEL_NAME)

    async def tokens_of(_: int, problem: Problem) -> int:
        return len(await client.render(BASE_MODEL_NAME, problem.messages))

    async def answer_to(seed: int, problem: Problem) -> Sample:
        (sample,) = await client.chat(BASE_MODEL_NAME, problem.messages, max_tokens=left, seed=seed)
        return sample

    problems = deciding(data.train)
    tried = [*problems, *data.held_out]
    left = room(tried, await _of_each(tried, tokens_of), max_model_len)
    samples = await _of_each(problems, answer_to)
    unended = sum(sample.finish_reason == "length" for sample in samples)
    lengths = [len(sample.token_ids) for sample in samples]
    return RolloutLength.of(lengths, unended, room=left, max_model_len=max_model_len)


async def _of_each(problems: Sequence[Problem], ask: Callable[[int, Problem], Awaitable[Result]]) -> list[Result]:
    """What `ask` gives for the number of each problem and the problem, some at a time; the first error ends all."""
    slots = asyncio.Semaphore(MAX_CONCURRENT)

    async def one(number: int, problem: Problem) -> Result:
        async with slots:
            return await ask(number, problem)

    asked = [asyncio.create_task(one(number, problem)) for number, problem in enumerate(problems)]
    try:
        return await asyncio.gather(*asked)
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
