"""Counts the tokens of a request: for a key that may only use so many per minute, and for the request's trace."""

import json
from typing import Any

from reheatd.access.quotas import Quota
from reheatd.gateway.stream import SplitEvents

BYTES_PER_TOKEN = 4
"""Of a request as it was sent; only an estimate for the time until the engine says how many tokens the prompt has."""
USAGE = b'"usage":'
BILLED = b'"billed_units":'
"""Cohere's name of the count."""
LONGEST_USAGE = 4096
"""Bytes of an engine's count of tokens, at most."""
DECODER = json.JSONDecoder()
TOKENS_AT_ONCE = 16
"""Tokens of a stream that are charged together, when the first of them comes: the bucket is not asked for each."""


class Meter:
    """Counts the tokens of one request. The client gets the bytes that it would get without.

    A prompt is charged by its length, and each event of a stream as one token, until the engine says how many there
    were. So a client that leaves early has been charged as well, for up to `TOKENS_AT_ONCE` - 1 tokens too many.

    Args:
        quota: What the tokens are charged to; None if nothing limits them.
        body: The request.
        usage: Gets the engine's count.
        usage_on_request: Whether a stream has the engine's count only if it is asked for. If so, a request for a stream
            is changed so that it asks.
    """

    def __init__(
        self,
        quota: Quota | None,
        body: dict[str, Any],
        usage: dict[str, int] | None = None,
        *,
        usage_on_request: bool = True,
    ) -> None:
        self._quota = quota
        self._usage = usage
        self._charged = 0
        self._ahead = 0
        self._hides_usage = False
        self._events = SplitEvents()
        options = body.get("stream_options")
        if usage_on_request and body.get("stream") is True and (options is None or isinstance(options, dict)):
            self._hides_usage = not (options or {}).get("include_usage")
            body["stream_options"] = {**(options or {}), "include_usage": True}

    def sent(self, raw: bytes) -> None:
        """Charges the prompt of a request, by its bytes as the client sent them."""
        self._charge(len(raw) // BYTES_PER_TOKEN)

    def answer(self, content: bytes) -> bytes:
        """Charges a whole answer."""
        self._settle(content)
        return content

    def feed(self, chunk: bytes) -> bytes:
        """Charges a stream's events, and returns those that the client asked for."""
        return b"".join([event for event in self._events.feed(chunk) if self._event(event)])

    def end(self) -> bytes:
        return self._events.end()

    def _event(self, event: bytes) -> bool:
        """Charges one event, and tells whether the client is to get it."""
        if event.startswith(b"event: "):
            event = event.partition(b"\n")[2]
            if b'"usage":{' in event and self._settle(event.removeprefix(b"data: ")):
                return True
        if not event.startswith(b"data: {"):
            return True
        if b'"choices":[]' in event and self._settle(event.removeprefix(b"data: ")):
            return not self._hides_usage
        if not self._ahead:
            self._charge(TOKENS_AT_ONCE)
            self._ahead = TOKENS_AT_ONCE
        self._ahead -= 1
        return True

    def _settle(self, content: bytes) -> bool:
        """Charges what the engine says instead of what was estimated; False if it says nothing."""
        usage = usage_of(content)
        if usage is None:
            return False  # an error of the engine, for example
        total = total_tokens(usage)
        if total is None:
            return False
        self._charge(total - self._charged)
        if self._usage is not None:
            self._usage.update({name: number for name, number in usage.items() if isinstance(number, int)})
        return True

    def _charge(self, tokens: int) -> None:
        self._charged += tokens
        if self._quota is not None:
            self._quota.charge(tokens)


def usage_of(content: bytes) -> dict[str, Any] | None:
    """The engine's count in an answer or an event of a stream; None if it has none.

    Only the count itself is read, because an answer with logprobs has megabytes. Quotes inside of texts are escaped, so
    that no text can look like it.
    """
    for name in (USAGE, BILLED):
        _, found, rest = content.rpartition(name)
        if found:
            try:
                usage, _ = DECODER.raw_decode(rest[:LONGEST_USAGE].decode(errors="replace").lstrip())
            except ValueError:
                continue
            if isinstance(usage, dict):
                return usage
    return None


def total_tokens(usage: dict[str, Any]) -> int | None:
    """Tokens of a request and its answer, by the engine's count; None if it names none."""
    for names in (("total_tokens",), ("input_tokens", "output_tokens"), ("input_tokens",)):
        counts = [usage.get(name) for name in names]
        if all(isinstance(count, int) for count in counts):
            return sum(count for count in counts if isinstance(count, int))
    return None
