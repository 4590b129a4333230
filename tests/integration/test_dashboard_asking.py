"""What pages ask a real engine: tokens with the entropy of their states, of the version that was asked."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.requests import Request

from reheatd.dashboard.asking import Answer, Asker, Question
from reheatd.entropy.meter import EntropyMeter, Sampler
from reheatd.entropy.probes import ProbeSet
from tests.integration.serving import Serving, serving
from tests.random_adapter import random_adapter
from tests.tiny_policy import VOCABULARY

TOKENS = 24


def asker_of(served: Serving, top_k: int) -> Asker:
    meter = EntropyMeter(
        cast(Sampler, None), ProbeSet.of([]), max_tokens=8, top_k=top_k, confidence=0.95, vocab_size=VOCABULARY
    )
    return Asker(served.gateway.routes(), meter)


def reader() -> Request:
    """Somebody who does not leave."""

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    scope = {"type": "http", "method": "POST", "path": "/ui/chat", "query_string": b"", "headers": [], "client": None}
    return Request({**scope, "scheme": "http", "server": ("daemon", 80)}, receive)


def question(model: str, *, max_tokens: int = TOKENS) -> Question:
    return Question(model, [{"role": "user", "content": "é 😀?"}], temperature=0.7, max_tokens=max_tokens, seed=5)


def test_answers_have_the_entropy_of_their_states(engine: str, tiny_policy: Path, tmp_path: Path) -> None:
    async def ask() -> tuple[Answer, Answer, Answer, Answer]:
        async with serving(engine, tmp_path) as served:
            await served.publish(random_adapter(tmp_path / "adapter", tiny_policy))
            whole = await asker_of(served, VOCABULARY - 1).ask(reader(), [question("base"), question("policy-v1")])
            few = await asker_of(served, 20).ask(reader(), [question("base"), question("policy-v1")])
            assert served.slots.in_flight() == 0
            return whole[0], whole[1], few[0], few[1]

    base_whole, version_whole, base, version = asyncio.run(ask())
    for answer in (base_whole, version_whole, base, version):
        assert answer.problem is None, answer.problem
        assert len(answer.tokens) <= TOKENS and answer.is_cut == (len(answer.tokens) == TOKENS)
        assert all(token.logprob < 0 for token in answer.tokens)
        assert all(len(token.likeliest) == 5 for token in answer.tokens)
    assert (base.version, version.version) == ("policy-v0", "policy-v1")
    assert base.text != version.text, "each is the answer of its own version"
    # The same random numbers give the same tokens, so the estimates are of the same states.
    for exact, estimate in ((base_whole, base), (version_whole, version)):
        assert [token.text for token in exact.tokens] == [token.text for token in estimate.tokens]
        assert exact.mean_entropy is not None
        assert estimate.mean_entropy == pytest.approx(exact.mean_entropy, rel=0.1)


def test_a_conversation_that_is_too_long_is_said_in_place(engine: str, tmp_path: Path) -> None:
    async def ask() -> Answer:
        async with serving(engine, tmp_path) as served:
            (answer,) = await asker_of(served, 20).ask(reader(), [question("policy", max_tokens=1_000_000)])
            return answer

    answer = asyncio.run(ask())
    assert answer.problem is not None and "1000000" in answer.problem and not answer.tokens
