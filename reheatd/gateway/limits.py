"""Limits how many requests a client may have in flight, and what one of them may ask for."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from starlette.requests import Request

from reheatd.access.caller import caller_of
from reheatd.errors import BadInputError, RateLimitError

COMPLETION_TOKENS = 16
"""Tokens of a completion that names no length, by OpenAI's interface."""


class ConcurrencyLimit:
    """Counts the requests in flight of each client, and refuses those beyond `most`; None means no limit."""

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._in_flight: Counter[str] = Counter()

    @contextmanager
    def admit(self, client: str, own: int | None = None) -> Iterator[None]:
        """Counts one request of `client` for as long as the context is open.

        Args:
            own: A limit of the client's own, which takes the place of `most`.

        Raises:
            RateLimitError: The client already has as many requests in flight as it may have.
        """
        most, where = (self._most, "server.max_concurrent_per_key") if own is None else (own, "concurrency of the key")
        if most is not None and self._in_flight[client] >= most:
            raise RateLimitError(
                f"{self._in_flight[client]} requests with this key are in flight, which is the limit ({where}); wait "
                "for one of them to end"
            )
        self._in_flight[client] += 1
        try:
            yield
        finally:
            self._in_flight[client] -= 1
            if not self._in_flight[client]:
                del self._in_flight[client]


class LogprobLimit:
    """Refuses requests for too many top log-probabilities.

    The engine writes them as JSON in one piece, and answers nobody else meanwhile.

    Args:
        most: Largest number of log-probabilities that a request may ask for; None means no limit.
        longest: Tokens of a chat's answer that names no length.
    """

    def __init__(self, most: int | None, longest: int) -> None:
        self._most = most
        self._longest = longest

    def check(self, body: dict[str, Any]) -> None:
        """Checks a request by its JSON body; what has a wrong type is left to the engine.

        Raises:
            BadInputError: It asks for too many.
        """
        top = max(_count(body.get("top_logprobs"), 0), _count(body.get("logprobs"), 0))
        if self._most is None or not top:
            return
        tokens = answer_tokens(body, self._longest)
        prompt = body.get("prompt")
        prompts = len(prompt) if isinstance(prompt, list) and not all(isinstance(item, int) for item in prompt) else 1
        answers = prompts * conversations(body) * _count(body.get("n"), 1)
        asked = answers * tokens * top
        if asked > self._most:
            raise BadInputError(
                f"{answers} answers x {tokens} tokens x {top} top logprobs are {asked} log-probabilities, and a "
                f"request may ask for {self._most} (server.max_logprobs); ask for fewer in one request",
                param="top_logprobs" if "top_logprobs" in body else "logprobs",
            )


def answer_tokens(body: dict[str, Any], longest: int) -> int:
    """The most tokens that an answer to this request can have.

    Args:
        longest: Tokens of an answer in a conversation that names no length.
    """
    unnamed = longest if "messages" in body or "input" in body else COMPLETION_TOKENS
    named = (_count(body.get(name), 0) for name in ("max_completion_tokens", "max_output_tokens", "max_tokens"))
    return next(filter(None, named), unnamed)


def conversations(body: dict[str, Any]) -> int:
    """Conversations of a request: several in a batch, otherwise one."""
    messages = body.get("messages")
    return len(messages) if isinstance(messages, list) and messages and isinstance(messages[0], list) else 1


def _count(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default


def client_of(request: Request) -> str:
    """The client that sent a request, by its API key or, without one, by its address."""
    known = caller_of(request).key
    key = request.headers.get("authorization") if known is None else f"key {known.name}"
    return key if key else f"host {request.client.host if request.client else 'unknown'}"
