"""Asks versions of the policy over the OpenAI API, and reads their answers."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from reheatd.client.requests import Request
from reheatd.measures import Contract


class ChatAnswer(Contract):
    """One answer."""

    text: str
    tokens: int | None
    """Tokens of the answer; None if the server does not say."""
    cut_off: bool
    """Whether it ended because it was as long as it may be."""


class Asked(Contract):
    """A prompt and the answers of several versions to it."""

    messages: list[dict[str, Any]]
    answers: dict[str, ChatAnswer] = Field(default_factory=dict)
    """By the name of the model."""


def chat(
    model: str, messages: Sequence[Mapping[str, Any]], *, max_tokens: int, temperature: float, seed: int
) -> Request[ChatAnswer]:
    """The request for one answer."""
    body = {
        "model": model,
        "messages": list(messages),
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
    }
    return Request("POST", "/v1/chat/completions", _answer, body=body)


def _answer(content: bytes) -> ChatAnswer:
    """The answer in a response.

    Raises:
        ValueError: The response is no completion.
    """
    body = json.loads(content)
    try:
        choice = body["choices"][0]
        text, reason, usage = choice["message"]["content"], choice["finish_reason"], body.get("usage") or {}
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError("the answer is no chat completion") from error
    return ChatAnswer(text=text or "", tokens=usage.get("completion_tokens"), cut_off=reason == "length")
