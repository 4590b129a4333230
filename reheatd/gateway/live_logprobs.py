"""Entropy of live traffic without the engine's tap: a fraction of the requests also ask for logprobs.

The logprobs are removed from the answers, so the client gets, byte for byte, what it would have got without them. That
works because vLLM writes answers as compact JSON, and so does this module.
"""

import json
import logging
import math
import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from reheatd.entropy.estimators import TailModel, estimate_tokens
from reheatd.entropy.live import LiveSeries, MeasuredBy
from reheatd.gateway.stream import SplitEvents

log = logging.getLogger(__name__)

CHAT_PATH = "/v1/chat/completions"
OWN_LOGPROBS = (
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
    "logprob_token_ids",
    "echo",
    "use_beam_search",
    "return_tokens_as_token_ids",
)
"""A request with one of these options is left alone: its answer has logprobs anyway, or none for each token."""
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "temperature": (1,),
    "top_p": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "repetition_penalty": (1,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "min_tokens": (0,),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
}
"""Values with which tokens are drawn from the policy's own distribution. None, the default, is one for every option."""
BENDING = ("logit_bias", "bad_words", "allowed_token_ids", "structured_outputs", "stop_token_ids")
"""Options with which tokens are drawn from another distribution, whatever their values are."""


class LiveLogprobs:
    """Chooses requests, and records the entropy that their logprobs give.

    Args:
        fraction: Share of the suitable requests that is chosen.
        top_k: Top logprobs per token.
        vocab_size: Size of the vocabulary, for the upper bounds.
        tail_model: Returns c(s) as it is at this moment.
    """

    def __init__(
        self,
        series: LiveSeries,
        *,
        fraction: float,
        top_k: int,
        vocab_size: int,
        tail_model: Callable[[], TailModel],
        seed: int | None = None,
    ) -> None:
        self._series = series
        self._fraction = fraction
        self._top_k = top_k
        self._vocab_size = vocab_size
        self._tail_model = tail_model
        self._random = random.Random(seed)

    def choose(self, path: str, body: dict[str, Any], version: str, source: str) -> "MeasuredRequest | None":
        """Decides whether to measure this request, and how; None if it is not measured."""
        if any(body.get(key) for key in OWN_LOGPROBS) or body.get("logprobs") == 0:
            return None
        if self._random.random() >= self._fraction:
            return None
        return MeasuredRequest(self, path, version, source, "control_variate" if is_fair(body) else "plug_in")

    def options(self, path: str) -> dict[str, Any]:
        """The options that are added to a request's body."""
        # One more than k, because a token drawn from outside the top displaces the last entry.
        wanted = self._top_k + 1
        if path == CHAT_PATH:
            return {"logprobs": True, "top_logprobs": wanted}
        # A completion's logprobs come in a dictionary keyed by text, where two tokens with equal text would be one.
        return {"logprobs": wanted, "return_tokens_as_token_ids": True}

    def record(self, measured: "MeasuredRequest") -> None:
        tail_model = self._tail_model()
        for rows in measured.rows.values():
            if any(len(top) < self._top_k for _, top in rows):
                log.warning(
                    "%s answered with fewer than %d logprobs per token; its entropy is not counted",
                    measured.version,
                    self._top_k,
                )
                continue
            sampled_T = np.array([sampled for sampled, _ in rows])
            top_TK = np.array([sorted(top, reverse=True)[: self._top_k] for _, top in rows])
            if not np.isfinite(sampled_T).all():
                log.warning(
                    "%s answered with a logprob that is not a number; its entropy is not counted", measured.version
                )
                continue
            found = estimate_tokens(sampled_T, top_TK, tail_model, self._vocab_size)
            values = found.control_variate_T if measured.measured_by == "control_variate" else found.plug_in_T
            self._series.add(measured.version, measured.source, measured.measured_by, values.tolist())


class MeasuredRequest:
    """One request whose answer carries logprobs that the client did not ask for."""

    def __init__(self, owner: LiveLogprobs, path: str, version: str, source: str, measured_by: MeasuredBy) -> None:
        self.version = version
        self.source = source
        self.measured_by: MeasuredBy = measured_by
        self.rows: dict[int, list[tuple[float, list[float]]]] = defaultdict(list)
        """For each choice, the logprob of each sampled token with the largest logprobs at its position."""
        self.options = owner.options(path)
        self._owner = owner
        self._events = SplitEvents()

    def answer(self, content: bytes) -> bytes:
        """Records the logprobs of a whole answer, and returns the answer as the client expects it."""
        stripped = self._strip(content)
        self._owner.record(self)
        assert stripped is not None
        return stripped

    def feed(self, chunk: bytes) -> bytes:
        """Takes the logprobs out of a stream's events, and returns the events as the client expects them."""
        return b"".join(map(self._event, self._events.feed(chunk)))

    def end(self) -> bytes:
        """Records the logprobs of a stream that the engine has finished."""
        self._owner.record(self)
        return self._events.end()

    def _event(self, event: bytes) -> bytes:
        prefix, data = event[:6], event[6:-2]
        if prefix != b"data: " or not data.startswith(b"{"):
            return event
        stripped = self._strip(data)
        return b"" if stripped is None else prefix + stripped + b"\n\n"

    def _strip(self, content: bytes) -> bytes | None:
        """Records and removes the logprobs; None for an event that vLLM sends only because of them."""
        body = json.loads(content)
        with_logprobs = [choice for choice in body.get("choices", []) if choice.get("logprobs")]
        if not with_logprobs:
            return content
        for choice in with_logprobs:
            self.rows[choice["index"]] += _rows(choice["logprobs"])
            choice["logprobs"] = None
            if choice.get("delta") == {} and choice.get("finish_reason") is None:
                return None
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def is_fair(body: dict[str, Any]) -> bool:
    """Whether this request's tokens are drawn from the policy's own distribution at temperature 1."""
    if any(body.get(key) for key in BENDING):
        return False
    return all(body.get(key) is None or body[key] in neutral for key, neutral in NEUTRAL.items())


def _rows(logprobs: dict[str, Any]) -> list[tuple[float, list[float]]]:
    """The sampled and the largest logprobs of each token, from a chat's or a completion's logprobs object.

    A null becomes NaN.
    """
    if "content" in logprobs:
        return [
            (_number(token["logprob"]), [_number(top["logprob"]) for top in token["top_logprobs"]])
            for token in logprobs["content"] or []
        ]
    tops = logprobs["top_logprobs"] or []
    return [
        (_number(sampled), [_number(value) for value in top.values()])
        for sampled, top in zip(logprobs["token_logprobs"], tops, strict=True)
    ]


def _number(value: float | None) -> float:
    return math.nan if value is None else value
