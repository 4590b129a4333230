"""Requests that are legal but heavy, and clients that read slowly."""

import json
import threading
import time
from typing import Any

import httpx

from tests.daemon import PROMPT
from tests.waiting import HANGS_S

HEAVY: dict[str, Any] = {"n": 20, "max_tokens": 480, "logprobs": True, "top_logprobs": 20}
"""Some 25 MB of JSON."""
SLOW: dict[str, Any] = {"n": 8, "max_tokens": 240, "logprobs": True, "top_logprobs": 20}
"""Some 5 MB of JSON, more than all socket buffers on the way hold."""


class Stream(threading.Thread):
    """One stream in a thread of its own.

    Args:
        options: Options of the request beside model and prompt.
        pause_s: How long nothing is read after the first chunk, in seconds.
    """

    def __init__(self, url: str, options: dict[str, Any], pause_s: float = 0.0) -> None:
        super().__init__(daemon=True)
        self.begun = threading.Event()
        self.finished = 0
        """Answers that came to their end."""
        self.problem = ""
        self._url = url
        self._options = options
        self._pause_s = pause_s

    def run(self) -> None:
        body = {"model": "policy", "messages": PROMPT, "stream": True, "ignore_eos": True, **self._options}
        try:
            with (
                httpx.Client(base_url=self._url, timeout=HANGS_S, trust_env=False) as http,
                http.stream("POST", "/v1/chat/completions", json=body) as response,
            ):
                for number, line in enumerate(response.iter_lines()):
                    if not number:
                        self.begun.set()
                        time.sleep(self._pause_s)
                    self._read(line)
        except httpx.HTTPError as error:
            self.problem = repr(error)

    def _read(self, line: str) -> None:
        # Only the chunks that end an answer are parsed, since the others are megabytes.
        if '"error"' in line:
            self.problem = line
        elif '"finish_reason":"' in line:
            chunk = json.loads(line.removeprefix("data: "))
            self.finished += sum(bool(choice["finish_reason"]) for choice in chunk["choices"])
