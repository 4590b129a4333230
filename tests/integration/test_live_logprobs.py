"""Logprobs that the gateway asks for on its own: the client's bytes are the same, and the entropy is right."""

import asyncio
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from reheatd.database import connect
from reheatd.entropy.estimators import TailModel
from reheatd.entropy.live import LiveSeries
from reheatd.gateway.live_logprobs import LiveLogprobs, is_fair
from tests.integration.serving import serving
from tests.tiny_policy import VOCABULARY
from tests.waiting import HANGS_S

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {}),
    "chat, two choices": (CHAT, {"n": 2}),
    "chat, cooler": (CHAT, {"temperature": 0.6, "top_p": 0.9}),
    "chat, streamed": (CHAT, {"stream": True}),
    "chat, streamed with usage": (CHAT, {"stream": True, "n": 2, "stream_options": {"include_usage": True}}),
    "chat, stopped": (CHAT, {"stream": True, "stop": ["e", "a"]}),
    "chat, JSON": (CHAT, {"stream": True, "response_format": {"type": "json_object"}}),
    "chat, tools": (CHAT, {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"}),
    "chat, refused": (CHAT, {"temperature": -1}),
    "completion": (COMPLETION, {}),
    "completion of two prompts": (COMPLETION, {"prompt": ["a b", "c d"]}),
    "completion, streamed": (COMPLETION, {"stream": True}),
    "own logprobs": (CHAT, {"logprobs": True, "top_logprobs": 2}),
}


TEXT = rb'"(?:content|text)":"((?:[^"\\]|\\.)*)"'


def body(path: str, options: dict[str, Any]) -> dict[str, Any]:
    prompt = {"messages": [{"role": "user", "content": "é 😀?"}]} if path == CHAT else {"prompt": "é 😀?"}
    return {"model": "policy", "max_tokens": 40, "seed": 5, "ignore_eos": True, **prompt, **options}


def by_choice(content: bytes) -> dict[bytes, tuple[bytes, list[bytes]]]:
    """The text of each choice and the bytes around it.

    Which choice of a step comes first in a stream is up to the engine, and so is how many tokens an event holds: a slow
    server puts several together.
    """
    choices: dict[bytes, tuple[bytes, list[bytes]]] = {}
    for event in content.split(b"\n\n"):
        (choice,) = re.findall(rb'"choices":\[{"index":(\d)', event)[:1] or [b"none"]
        text, around = choices.get(choice, (b"", []))
        text += b"".join(re.findall(TEXT, event))
        rest = re.sub(TEXT, b"", event)
        choices[choice] = (text, around if rest in around[-1:] else [*around, rest])
    return choices


@pytest.mark.parametrize("kind", ASKED)
def test_the_client_sees_the_same_bytes(kind: str, engine: str, tmp_path: Path) -> None:
    path, options = ASKED[kind]

    async def ask(
        folder: Path, live: LiveLogprobs | None
    ) -> tuple[int, dict[bytes, tuple[bytes, list[bytes]]], dict[str, str]]:
        folder.mkdir()
        async with serving(engine, folder, live) as served, httpx.AsyncClient(timeout=HANGS_S) as http:
            headers = {"x-request-id": "same"}
            answer = await http.post(served.url + path, json=body(path, options), headers=headers)
            kept = {key: value for key, value in answer.headers.items() if key != "date"}
            return answer.status_code, by_choice(re.sub(rb'"created":\d+', b"", answer.content)), kept

    db = connect(tmp_path / "live.sqlite3")
    series = LiveSeries(db, confidence=0.95)
    live = LiveLogprobs(series, fraction=1.0, top_k=20, vocab_size=VOCABULARY, tail_model=TailModel)
    plain = asyncio.run(ask(tmp_path / "plain", None))
    assert asyncio.run(ask(tmp_path / "heard", live)) == plain
    counted = {key.measured_by: next(iter(sums.values())).tokens for key, sums in series._totals.items()}
    db.close()
    if kind in ("own logprobs", "chat, refused"):
        assert counted == {}
    elif kind in ("chat, cooler", "chat, JSON"):
        assert list(counted) == ["plug_in"]
    else:
        assert list(counted) == ["control_variate"]
        if "stopped" not in kind and path == CHAT:
            assert counted["control_variate"] == 40 * options.get("n", 1)


def test_entropy_agrees_with_the_exact_one(engine: str, tmp_path: Path) -> None:
    """Greedy states, where only the model of the tail is left, and sampled ones."""

    async def ask(live: LiveLogprobs | None, options: dict[str, Any]) -> None:
        async with serving(engine, tmp_path, live) as served, httpx.AsyncClient(timeout=HANGS_S) as http:
            for seed in range(8):
                answer = await http.post(served.url + CHAT, json=body(CHAT, {**options, "seed": seed}))
                assert answer.status_code == 200

    db = connect(tmp_path / "live.sqlite3")
    for options, measured_by in (({}, "control_variate"), ({"temperature": 0.7}, "plug_in")):
        few, many = LiveSeries(db, confidence=0.95), LiveSeries(db, confidence=0.95)
        for series, top_k in ((few, 8), (many, 60)):
            live = LiveLogprobs(series, fraction=1.0, top_k=top_k, vocab_size=VOCABULARY, tail_model=TailModel)
            asyncio.run(ask(live, options))
        (window,), (reference,) = few.close_windows(), many.close_windows()
        assert window.measured_by == reference.measured_by == measured_by
        assert window.estimate.tokens == reference.estimate.tokens == 320
        assert window.estimate.mean == pytest.approx(reference.estimate.mean, abs=0.15)
    db.close()


@pytest.mark.parametrize(
    ("options", "fair"),
    [
        ({}, True),
        ({"temperature": None, "top_p": 1.0, "top_k": -1, "n": 3, "stop": ["x"], "max_tokens": 5}, True),
        ({"temperature": 0}, False),
        ({"temperature": 1.1}, False),
        ({"top_p": 0.9}, False),
        ({"top_k": 50}, False),
        ({"min_p": 0.1}, False),
        ({"frequency_penalty": 0.5}, False),
        ({"logit_bias": {"5": 1}}, False),
        ({"response_format": {"type": "json_object"}}, False),
        ({"structured_outputs": {"regex": "a"}}, False),
        ({"tool_choice": "required"}, False),
    ],
)
def test_which_tokens_are_fair_draws(options: dict[str, Any], fair: bool) -> None:
    assert is_fair(options) is fair
