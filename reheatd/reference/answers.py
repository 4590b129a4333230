"""The reference's answers to the held-out problems: what it solves and the policy does not could be had back.

The reference is not served later, so it is asked while its engine runs for the baseline. Workers score its answers, as
they score all others.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from reheatd.engine.client import EngineClient
from reheatd.files import write_atomically
from reheatd.measures import Contract
from reheatd.names import BASE_MODEL_NAME
from reheatd.options import TaskOptions
from reheatd.task_data import Problem, problem_set_digest

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
    slots = asyncio.Semaphore(MAX_CONCURRENT)

    async def one(seed: int, problem: Problem) -> list[str]:
        async with slots:
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

    asked = [asyncio.create_task(one(seed, problem)) for seed, problem in enumerate(problems)]
    try:
        return ReferenceAnswers(key=key, texts=await asyncio.gather(*asked))
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
