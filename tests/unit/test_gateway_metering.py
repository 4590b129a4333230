"""How the gateway reads an engine's count of tokens."""

import json
from typing import Any

import pytest

from reheatd.gateway.metering import Meter

USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12, "prompt_tokens_details": None}
COUNTED = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
LOOKS_LIKE_IT = '"usage":{"total_tokens":999}'


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
@pytest.mark.parametrize("behind", [{}, {"prompt_logprobs": [{"5": {"logprob": -1.5}}] * 5000}])
def test_the_count_is_found_whatever_the_answer_says(separators: tuple[str, str], behind: dict[str, Any]) -> None:
    answer = {"choices": [{"text": LOOKS_LIKE_IT}], "usage": USAGE, **behind}
    usage: dict[str, int] = {}
    content = json.dumps(answer, separators=separators).encode()
    assert Meter(None, {}, usage).answer(content) == content
    assert usage == COUNTED


@pytest.mark.parametrize(
    "content", [b"", b"not json", b'{"error": {"message": "no"}}', b'{"usage": null}', b'{"usage": {"total_tokens"']
)
def test_an_answer_without_a_count_has_none(content: bytes) -> None:
    usage: dict[str, int] = {}
    assert Meter(None, {}, usage).answer(content) == content
    assert usage == {}


def test_a_stream_that_asks_for_no_count_shows_none() -> None:
    body: dict[str, Any] = {"stream": True}
    usage: dict[str, int] = {}
    meter = Meter(None, body, usage)
    assert body["stream_options"] == {"include_usage": True}
    token = b'data: {"choices":[{"index":0}]}\n\n'
    last = b'data: {"choices":[],"usage":' + json.dumps(USAGE).encode() + b"}\n\n"
    assert meter.feed(token + last + b"data: [DONE]\n\n") == token + b"data: [DONE]\n\n"
    assert usage == COUNTED
