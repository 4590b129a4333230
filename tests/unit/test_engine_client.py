"""The engine client against a scripted HTTP server: what vLLM's answers mean."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from reheatd.engine.client import EngineClient
from reheatd.errors import AdapterInvalidError, EngineError, EngineTakenError, NotFoundError
from tests.waiting import HANGS_S

T = TypeVar("T")
Answer = Callable[[dict[str, Any]], tuple[int, Any]]


class Script:
    """Answers by route, and the requests that came."""

    def __init__(self, **answers: Answer) -> None:
        self.answers = answers
        self.asked: list[tuple[str, Any]] = []

    async def __call__(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else None
        name = request.path.rsplit("/", 1)[-1]
        self.asked.append((name, body))
        status, answer = self.answers[name](body or {})
        return web.json_response(answer, status=status)


def run(script: Script, body: Callable[[EngineClient], Awaitable[T]], owned: Path | None = None) -> T:
    async def main() -> T:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", script)
        async with TestServer(app) as server, EngineClient(str(server.make_url("")), owned=owned) as client:
            return await body(client)

    return asyncio.run(main())


def completion(*tokens: tuple[float, list[float]]) -> dict[str, Any]:
    """As vLLM answers: for each token, its logprob and the largest ones, the sampled token's among them."""
    choice = {
        "text": "x" * len(tokens),
        "logprobs": {
            "token_logprobs": [sampled for sampled, _ in tokens],
            "top_logprobs": [{f"token_id:{index}": value for index, value in enumerate(top)} for _, top in tokens],
        },
        "prompt_token_ids": [1, 2, 3],
        "token_ids": list(range(len(tokens))),
        "finish_reason": "stop",
    }
    return {"choices": [choice]}


def chats(*tokens: tuple[float, list[float]]) -> Script:
    """An engine that turns every chat into the tokens 1, 2, 3 and completes them by `tokens`."""
    return Script(tokenize=lambda _: (200, {"tokens": [1, 2, 3]}), completions=lambda _: (200, completion(*tokens)))


def test_the_k_largest_logprobs_survive_a_draw_from_outside_them() -> None:
    # As vLLM answers for three asked entries: the sampled token first, then the largest of the others.
    script = chats((-1.0, [-1.0, -0.5, -2.0]), (-7.0, [-7.0, -0.5, -1.0]))

    async def sample(client: EngineClient) -> list[Any]:
        return await client.chat("policy", [{"role": "user", "content": "?"}], max_tokens=2, top_k=2)

    (answer,) = run(script, sample)
    assert [token.top for token in answer.tokens] == [[-0.5, -1.0], [-0.5, -1.0]]
    assert [token.logprob >= token.top[-1] for token in answer.tokens] == [True, False]
    assert answer.logprobs == [-1.0, -7.0]
    assert [(name, body.get("prompt"), body.get("logprobs")) for name, body in script.asked] == [
        ("tokenize", None, None),
        ("completions", [1, 2, 3], 3),
    ]


def test_the_whole_distribution_is_sampled_unless_less_is_asked_for() -> None:
    script = chats((-1.0, []))

    async def sample(client: EngineClient) -> None:
        question = [{"role": "user", "content": "?"}]
        await client.chat("policy", question, max_tokens=1)
        await client.chat("policy", question, max_tokens=1, top_p=0.7)

    run(script, sample)
    asked = [body for name, body in script.asked if name == "completions"]
    assert [body["top_p"] for body in asked] == [1.0, 0.7]
    assert all((body["top_k"], body["min_p"], body["repetition_penalty"]) == (0, 0.0, 1.0) for body in asked)


def test_scores_are_those_of_the_completion_alone() -> None:
    scored = [None, {"5": {"logprob": -0.1}}, {"6": {"logprob": -0.2}, "9": {"logprob": 0.0}}, {"7": {"logprob": -0.3}}]
    follows = {"top_logprobs": [{"token_id:9": -0.4, "token_id:8": -1.5}]}
    choice = {"prompt_logprobs": scored, "logprobs": follows}
    script = Script(completions=lambda body: (200, {"choices": [choice]}))
    assert run(script, lambda client: client.score("policy-v1", [4, 5], [6, 7])) == [-0.2, -0.3]
    score = run(script, lambda client: client.score_and_next("policy-v1", [4, 5], [6, 7], top_k=2))
    assert (score.logprobs, score.next) == ([-0.2, -0.3], {9: -0.4, 8: -1.5})


def test_what_follows_is_read_from_the_cache_unless_it_is_salted() -> None:
    choice = {"logprobs": {"top_logprobs": [{"token_id:9": -0.4}]}}
    script = Script(completions=lambda body: (200, {"choices": [choice]}))

    async def ask(client: EngineClient) -> list[dict[int, float]]:
        return [await client.next_logprobs("policy-v1", [4], top_k=1, cache_salt=salt) for salt in (None, "pepper")]

    assert run(script, ask) == [{9: -0.4}, {9: -0.4}]
    (_, plain), (_, salted) = script.asked
    assert "prompt_logprobs" not in plain and "cache_salt" not in plain  # either would bypass the cache
    assert salted["cache_salt"] == "pepper"


def test_a_refused_adapter_is_told_in_the_engines_words() -> None:
    refusal = {"error": {"message": "LoRA rank 64 is greater than\nmax_lora_rank 16."}}
    script = Script(
        models=lambda body: (200, {"data": []}),
        load_lora_adapter=lambda body: (500, refusal),
        health=lambda body: (200, ""),
    )
    with pytest.raises(AdapterInvalidError, match=r"policy-v3 .*rank 64 is greater than max_lora_rank 16"):
        run(script, lambda client: client.load_adapter("policy-v3", Path("/a")))


def test_an_engine_that_dies_while_it_loads_an_adapter_does_not_refuse_it() -> None:
    script = Script(
        models=lambda body: (200, {"data": []}),
        load_lora_adapter=lambda body: (500, {"error": {"message": "EngineCore encountered an issue."}}),
        health=lambda body: (503, ""),
    )
    with pytest.raises(EngineError, match="EngineCore encountered an issue") as raised:
        run(script, lambda client: client.load_adapter("policy-v3", Path("/a")))
    assert raised.value.is_transient


def held(*roots: str) -> Answer:
    """The engine's list of models: the base, and an adapter from each of the folders."""
    adapters = [{"id": Path(root).name, "root": root, "parent": "base"} for root in roots]
    return lambda body: (200, {"data": [{"id": "base", "root": "/models/base", "parent": None}, *adapters]})


def test_what_an_earlier_daemon_left_is_unregistered() -> None:
    models = held("/data/adapters/policy-v1-00", "/data/jobs/rl-1/x-8")
    script = Script(models=models, unload_lora_adapter=lambda _: (200, ""))
    run(script, lambda client: client.unload_all(), owned=Path("/data"))
    asked = [(name, body and body["lora_name"]) for name, body in script.asked]
    assert asked == [("models", None), ("unload_lora_adapter", "policy-v1-00"), ("unload_lora_adapter", "x-8")]


def test_an_engine_of_another_daemon_is_left_alone() -> None:
    script = Script(models=held("/data/adapters/policy-v1-00", "/other/adapters/policy-v1-11"))
    for change in (
        lambda client: client.unload_all(),
        lambda client: client.load_adapter("policy-v2-22", Path("/data/adapters/policy-v2-22")),
    ):
        with pytest.raises(EngineTakenError, match="policy-v1-11 was loaded from /other/adapters/policy-v1-11, which"):
            run(script, change, owned=Path("/data"))
    assert {name for name, _ in script.asked} == {"models"}


def test_a_name_the_engine_still_holds_is_registered_afresh() -> None:
    script = Script(
        models=held("/data/policy-v3"),
        load_lora_adapter=lambda body: (200, "ok"),
        unload_lora_adapter=lambda body: (200, "ok"),
    )
    run(script, lambda client: client.load_adapter("policy-v3", Path("/a")))
    assert [name for name, _ in script.asked] == ["models", "unload_lora_adapter", "load_lora_adapter"]


def test_unknown_models_and_broken_engines_are_told_apart() -> None:
    missing = Script(completions=lambda body: (404, {"error": {"message": "The model `x` does not exist."}}))
    with pytest.raises(NotFoundError, match="`x` does not exist"):
        run(missing, lambda client: client.complete("x", "1", max_tokens=1))
    broken = Script(completions=lambda body: (500, {"error": {"message": "EngineCore died"}}))
    with pytest.raises(EngineError, match="EngineCore died"):
        run(broken, lambda client: client.complete("x", "1", max_tokens=1))


def test_ready_means_that_a_token_came_not_that_health_is_ok() -> None:
    starting = 2

    def complete(body: dict[str, Any]) -> tuple[int, Any]:
        nonlocal starting
        starting -= 1
        if starting >= 0:
            return 500, {"error": {"message": "loading weights"}}
        logprobs = {"token_logprobs": [-1.0], "top_logprobs": None}
        choice = {
            "prompt_token_ids": [1],
            "token_ids": [2],
            "text": "a",
            "logprobs": logprobs,
            "finish_reason": "length",
        }
        return 200, {"choices": [choice]}

    script = Script(health=lambda body: (200, ""), completions=complete)
    run(script, lambda client: client.wait_ready(30))
    assert starting == -1

    never = Script(health=lambda body: (200, ""), completions=lambda body: (500, {"error": {"message": "no memory"}}))
    with pytest.raises(EngineError, match=r"no token within 1 s .*no memory"):
        run(never, lambda client: client.wait_ready(1))


def test_an_engine_that_is_slow_with_its_first_token_becomes_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reheatd.engine.client.FIRST_TOKEN_S", 0.02)

    class Slow(EngineClient):
        async def is_healthy(self) -> bool:
            return True

        async def complete(self, *_: Any, **__: Any) -> Any:
            await asyncio.sleep(0.2)

    asyncio.run(Slow("http://engine").wait_ready(HANGS_S))
