"""Proof of delivery: shows that the adapter that answers is the one that was trained.

The trainer hands over probe completions with the logprobs that it computed under the new adapter and under the bare
base. The engine scores the same completions under both. `reheatd.adapters.evidence` compares them after each, and the
proof ends as soon as it can tell. So the completions that tell most per token come first.

Scoring computes every prompt anew, while answers read what the engine's prefix cache holds. So the proof also asks, in
the way answers are generated, what follows each completion. That finds a cache that other weights have filled. If the
two differ, the proof asks once more with a salt, under which the cache is empty, to learn what rounding does.
"""

import asyncio
import uuid
from collections.abc import Sequence

import numpy as np

from reheatd.adapters.evidence import Evidence, Proof, next_difference
from reheatd.adapters.lineage import ProofItem
from reheatd.engine.client import EngineClient
from reheatd.errors import DeliveryError
from reheatd.names import BASE_MODEL_NAME

LARGE_CHANGE = 0.5
"""Change of a token's logprob that tells half as much as any change can, in nats."""
TOP_K = 20
"""Likeliest next tokens that are compared with and without the prefix cache."""


class Proving:
    """A proof on one engine. It begins when it is made, with what it can ask before the adapter is loaded.

    Args:
        name: The adapter's name in messages.
        items: Probes for the proof; see `ProofItem`.
        tolerance: Largest mean absolute difference between engine and trainer, in nats per token.
        leniency: Factor on what is allowed for rounding.

    Raises:
        DeliveryError: The items cannot prove anything.
    """

    def __init__(
        self,
        client: EngineClient,
        name: str,
        items: Sequence[ProofItem],
        *,
        tolerance: float,
        leniency: float = 1.0,
    ) -> None:
        if not items:
            raise DeliveryError(f"{name} comes without proof items, so its delivery cannot be proven")
        for item in items:
            if not len(item.completion_ids) == len(item.logprobs) == len(item.base_logprobs) > 0:
                raise DeliveryError(
                    f"{name} has a proof item that lacks one logprob per token; its trainer is at fault"
                )
        self._client = client
        self._items = by_information(items)
        self._evidence = Evidence(name, self._items, tolerance=tolerance, leniency=leniency)
        self._first_base = asyncio.ensure_future(self._score_base(self._items[0]))
        # If the adapter cannot even be loaded, nobody asks how this ended.
        self._first_base.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def finish(self, model: str) -> Proof:
        """Proves the delivery; called once the engine has loaded the adapter as `model`.

        Raises:
            DeliveryError: The engine's answers are not the trainer's.
            EngineError: The engine cannot be reached or refuses to score.
        """
        # One item after the other, because many prompts at once would delay the clients' tokens, which the same engine
        # steps decode.
        for item in self._items:
            base = self._first_base if item is self._items[0] else self._score_base(item)
            scored, cached, base_logprobs = await asyncio.gather(
                self._client.score_and_next(model, item.prompt_ids, item.completion_ids, top_k=TOP_K),
                self._next(model, item),
                base,
            )
            difference, rounding = next_difference(scored.next, cached), 0.0
            if difference > self._evidence.cache_allowance:
                rounding = next_difference(scored.next, await self._next(model, item, cache_salt=uuid.uuid4().hex))
            self._evidence.add(item, base_logprobs, scored.logprobs, difference, rounding)
            proof = self._evidence.verdict()
            if proof is not None:
                return proof
        return self._evidence.last_verdict()

    def cancel(self) -> None:
        """Gives the proof up; for an adapter that could not be loaded."""
        self._first_base.cancel()

    async def _next(self, model: str, item: ProofItem, cache_salt: str | None = None) -> dict[int, float]:
        ids = [*item.prompt_ids, *item.completion_ids]
        return await self._client.next_logprobs(model, ids, top_k=TOP_K, cache_salt=cache_salt)

    async def _score_base(self, item: ProofItem) -> list[float]:
        return await self._client.score(BASE_MODEL_NAME, item.prompt_ids, item.completion_ids)


async def prove(
    client: EngineClient, model: str, items: Sequence[ProofItem], *, tolerance: float, leniency: float = 1.0
) -> Proof:
    """Proves the delivery of an adapter that the engine has loaded as `model`; see `Proving`."""
    return await Proving(client, model, items, tolerance=tolerance, leniency=leniency).finish(model)


def by_information(items: Sequence[ProofItem]) -> list[ProofItem]:
    """The items, those first that tell most for the time that the engine takes, which is that of prompt and completion.

    One large change tells less than two that are half as large.
    """

    def information(item: ProofItem) -> float:
        change_T = np.abs(np.subtract(item.logprobs, item.base_logprobs))
        return float((change_T / (change_T + LARGE_CHANGE)).sum()) / (len(item.prompt_ids) + len(item.completion_ids))

    return sorted(items, key=information, reverse=True)
