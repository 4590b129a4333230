"""Requests that no HTTP library sends: broken JSON, fields of every type, odd headers, paths and framing."""

import json
import random
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from reheatd.gateway.surface import POOLING

HANG_S = 60.0
"""A request that is not answered within this time hangs. An answer has at most a few dozen tokens."""
CHAT = {"model": "policy", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
COMPLETION = {"model": "policy", "prompt": "Hello", "max_tokens": 4}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": CHAT,
    "/v1/completions": COMPLETION,
    "/v1/chat/completions/batch": CHAT | {"messages": [CHAT["messages"]] * 2},
    "/v1/responses": {"model": "policy", "input": "Hello", "max_output_tokens": 4},
    "/v1/messages": CHAT,
    "/v1/messages/count_tokens": {"model": "policy", "messages": CHAT["messages"]},
    "/tokenize": {"model": "policy", "prompt": "Hello"},
    "/detokenize": {"model": "policy", "tokens": [5, 6]},
    "/v1/systemone": {
        "model": "policy",
        "state": "Hello",
        "questions": {"a": {"type": "binary", "instructions": "Is it so?"}},
    },
    "/generative_scoring": {"model": "policy", "query": "Hello", "items": ["a", "b"], "label_token_ids": [5, 6]},
    **{route.path: {"model": "policy", "input": "Hello"} for route in POOLING},
    "/reheatd/v1/jobs": {"kind": "reheat", "force": True},
    "/reheatd/v1/adapters/prune": {"keep": 3},
    "/reheatd/v1/jobs/none/rollout-adapter": {"path": "/", "step": 0},
}
SCHEMAS = {
    "/v1/chat/completions": "ChatCompletionRequest",
    "/v1/completions": "CompletionRequest",
    "/v1/chat/completions/batch": "BatchChatCompletionRequest",
    "/v1/responses": "ResponsesRequest",
    "/v1/messages": "AnthropicMessagesRequest",
    "/v1/messages/count_tokens": "AnthropicCountTokensRequest",
    "/v1/systemone": "StructuredDecisionRequest",
    "/generative_scoring": "GenerativeScoringRequest",
}
"""Names of the engine's own schemas."""
PATHS = (
    "/health", "/v1/models", "/v1/models/{}", "/v1/responses/{}", "/v1/responses/{}/cancel",
    "/reheatd/v1/status", "/reheatd/v1/entropy?last={}",
    "/reheatd/v1/entropy/live?source={}&last={}", "/reheatd/v1/adapters", "/reheatd/v1/adapters/{}",
    "/reheatd/v1/adapters/{}/files", "/reheatd/v1/jobs/{}", "/reheatd/v1/jobs/{}/curves",
    "/reheatd/v1/jobs/{}/rollouts?step={}", "/reheatd/v1/journal?last={}", "/openapi.json", "/{}", "/v1/{}",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 1.5, -0.0, 1e308, 5e-324, "",
    "a", "auto", "none", "\0", "\ud800", "a\udfffb", "🙂", "x" * 5000, [], [[]], [None], [1], [-1], [2**40], ["a"],
    [[1, 2]], {}, {"a": 1},
    {"type": "text"}, {"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}},
    {"5": 1.0}, {"-1": 100}, {"999999999": 1}, {"a": "\ud800"}, [{"role": "user"}], [{"type": "function"}],
)  # fmt: skip
RAW_VALUES = (
    "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 4000, "9" * 9000, "[" * 60_000, '{"a":' * 5000,
    "[" * 200 + "]" * 200,
    '"\\ud800"', '"\\u0000"', '"', "tru", "1 2", '{"a":1,"a":2}', "\x01", "\xff",
)  # fmt: skip
SEGMENTS = (
    "0", "1", "-1", "base", "policy", "policy-v1", "policy-v999999999", "9" * 400, "%00", "%ff%fe", "%ed%a0%80", "..",
    "%2e%2e%2f", "a%2Fb", "%0d%0aX:%201", "'%20OR%201=1", "%F0%9F%99%82", "%", "%zz", "a" * 3000, "*", "",
)  # fmt: skip
WITH_KEY = 0.9
"""Share of the requests that send a good key. The others send none, or one of the `HEADERS`."""
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "get", "\x01")
HEADERS: tuple[bytes, ...] = (
    b"x-request-id: " + b"a" * 5000, b"x-request-id: \xff\xfe", b"x-request-id: \xc3\xa9", b"x-request-id:",
    b"x-request-id: a\tb", b"authorization: Bearer \xff", b"authorization:",
    b"authorization: Bearer rh-" + b"a" * 40, b"x-api-key: \xff", b"x-api-key: rh-a", b"content-encoding: gzip",
    b"content-encoding: br", b"content-encoding: \xff", b"content-type: text/plain; charset=utf-16", b"content-type:",
    b"accept: \xff", b"accept-encoding: *;q=0", b"connection: x-a, \xff", b"connection: content-type, host",
    b"cookie: a=\xff", b"x-a: " + b"b" * 20_000, b"\xff: a", b"expect: 100-continue", b"transfer-encoding: gzip",
    b"range: bytes=0-", b"x-reheatd-version: policy-v1", b"x-data-parallel-rank: a", b"X-Session-ID: \xe9",
    b"traceparent: a", b"upgrade: websocket", b"forwarded: for=\xff", b"x-forwarded-for: \xff",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What came back for one request."""

    request: str
    status: int | None
    """None if there was no answer in time; 0 if the connection was closed without one."""
    seconds: float
    body: str


class RawFuzzer:
    """Sends requests one after the other, each on a connection of its own.

    Args:
        schemas: The engine's own schemas by name; all their fields are tried.
        keys: API keys, of which most requests send one.
    """

    def __init__(self, url: str, schemas: dict[str, Any], *, keys: tuple[str, ...], seed: int) -> None:
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._keys = [f"authorization: Bearer {key}".encode() for key in keys]
        self._random = random.Random(seed)
        self._fields = {path: sorted(schemas[name]["properties"]) for path, name in SCHEMAS.items()}
        places = [(path, field) for path, fields in self._fields.items() for field in fields]
        self._pairs = [(*place, value) for place in places for value in VALUES]
        self._random.shuffle(self._pairs)

    def run(self, seconds: float) -> Iterator[Outcome]:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            yield self._send(self._request())

    def _request(self) -> bytes:
        return self._random.choice((self._with_a_field, self._with_a_field, self._with_raw_json, self._odd))()

    def _with_a_field(self) -> bytes:
        """A good request in which one or two fields have a value of any type.

        At first, every field of the engine has every value once.
        """
        if self._pairs:
            path, field, value = self._pairs.pop()
            return self._post(path, json.dumps(BODIES[path] | {field: value}).encode())
        path = self._random.choice([*SCHEMAS, *SCHEMAS, *BODIES])
        body = dict(BODIES[path])
        for _ in range(self._random.randint(1, 2)):
            body[self._random.choice([*self._fields.get(path, ()), *body])] = self._random.choice(VALUES)
        return self._post(path, json.dumps(body).encode())

    def _with_raw_json(self) -> bytes:
        path = self._random.choice([*BODIES])
        text = json.dumps(BODIES[path])
        field = json.dumps(self._random.choice([*self._fields.get(path, ()), *BODIES[path], "x"]))
        made = f"{text[:-1]}, {field}: {self._random.choice(RAW_VALUES)}}}"
        return self._post(path, made.encode("latin-1"))

    def _odd(self) -> bytes:
        """A request whose method, path, query, headers or framing are unusual."""
        path = self._random.choice([*PATHS, *BODIES])
        while "{}" in path:
            path = path.replace("{}", self._random.choice(SEGMENTS), 1)
        method = self._random.choice([*METHODS[:4], *METHODS])
        body = self._random.choice([b"", json.dumps(CHAT).encode(), b"\xff\xfe{}", b"\x1f\x8b\x08", bytes(1000)])
        headers = self._random.sample(HEADERS, self._random.randint(0, 3))
        return self._post(path, body, method=method, headers=headers)

    def _post(self, path: str, body: bytes, *, method: str = "POST", headers: list[bytes] | None = None) -> bytes:
        lines = [f"{method} {path} HTTP/1.1".encode("latin-1"), b"host: fuzz", b"connection: close", *(headers or ())]
        if not headers:
            lines.append(b"content-type: application/json")
        if self._random.random() < WITH_KEY:
            lines.append(self._random.choice(self._keys))
        if self._random.random() < 0.1:
            chunked = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return b"\r\n".join([*lines, b"transfer-encoding: chunked", b"", chunked + b"0\r\n\r\n"])
        return b"\r\n".join([*lines, b"content-length: %d" % len(body), b"", body])

    def _send(self, request: bytes) -> Outcome:
        began = time.monotonic()
        received = b""
        named = request[:2000].decode("latin-1")
        try:
            with socket.create_connection(self._address, timeout=HANG_S) as connection:
                connection.sendall(request)
                while part := connection.recv(1 << 16):
                    received += part
        except TimeoutError:
            return Outcome(named, None, time.monotonic() - began, received[:2000].decode("latin-1"))
        except OSError:  # the server refuses to read on, and closes the connection
            pass
        if received.startswith(b"HTTP/1.1 100 "):  # the server asks for the body; the answer comes after that
            received = received.partition(b"\r\n\r\n")[2]
        status = received.split(b" ", 2)[1] if received.startswith(b"HTTP/1.") else b"0"
        return Outcome(named, int(status), time.monotonic() - began, received[:4000].decode("latin-1"))
