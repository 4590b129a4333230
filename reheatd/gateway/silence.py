"""How long the gateway waits for a byte from an engine."""

from typing import Any

import aiohttp

from reheatd.engine.pool import EnginePool
from reheatd.errors import EngineTimeoutError
from reheatd.gateway.limits import answer_tokens


class Silence:
    """The longest wait for a byte.

    A stream's bytes come token by token. Any other answer comes in one piece, so that a long one may take longer.

    Args:
        least_s: Longest wait for a byte of a stream, in seconds, and for a short answer.
        longest: Tokens of an answer whose request names no length.
    """

    def __init__(self, pool: EnginePool, least_s: float, longest: int) -> None:
        self.least_s = least_s
        self._pool = pool
        self._longest = longest

    def seconds(self, body: dict[str, Any]) -> float:
        if body.get("stream") is True:
            return self.least_s
        tokens = answer_tokens(body, self._longest)
        usual = [replica.client.patience.seconds(tokens) for replica in self._pool.replicas]
        return max([self.least_s, *usual])

    def timeout(self, body: dict[str, Any]) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=self.seconds(body))

    def error(self, body: dict[str, Any]) -> EngineTimeoutError:
        return EngineTimeoutError(
            f"the engine has not sent a byte for {self.seconds(body):.4g} s, which is longer than answers of this "
            f"length usually take and than server.silence_timeout_s = {self.least_s:g}; try again later or ask for "
            "fewer tokens"
        )
