"""An engine that answers at once: `python -m bench.stub_engine PORT`. Its answers are enough for a daemon to start."""

import json
import sys
from typing import Any

import uvicorn

TOP = [{"token": str(index), "logprob": -1.0 - index / 10, "bytes": None} for index in range(21)]
TOKEN = {"token": "0", "logprob": -1.0, "bytes": None, "top_logprobs": TOP}
MESSAGE = {"role": "assistant", "content": "Four."}
USAGE = {"prompt_tokens": 12, "total_tokens": 14, "completion_tokens": 2}
CHAT = json.dumps({
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "base", "usage": USAGE,
    "prompt_token_ids": [1, 2],
    "choices": [{"index": 0, "message": MESSAGE, "logprobs": None, "finish_reason": "stop", "token_ids": [3]}],
}).encode()  # fmt: skip
CHAT_WITH_LOGPROBS = json.dumps({
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "base", "usage": USAGE,
    "prompt_token_ids": [1, 2],
    "choices": [{"index": 0, "message": MESSAGE, "logprobs": {"content": [TOKEN]}, "finish_reason": "stop",
                 "token_ids": [3]}],
}).encode()  # fmt: skip
LENGTH = 8
TOP_OF_COMPLETION = {f"token_id:{3 + place}": -5.0 - place / 5 if place else -0.04 for place in range(21)}
COMPLETION = json.dumps({
    "id": "cmpl-1", "object": "text_completion", "created": 1, "model": "base", "usage": USAGE,
    "choices": [{"index": 0, "text": "4" * LENGTH, "finish_reason": "length", "prompt_token_ids": [1],
                 "token_ids": [3] * LENGTH,
                 "logprobs": {"token_logprobs": [-0.04] * LENGTH, "top_logprobs": [TOP_OF_COMPLETION] * LENGTH,
                              "tokens": ["4"] * LENGTH, "text_offset": [*range(LENGTH)]}}],
}).encode()  # fmt: skip
TOKENS = json.dumps({"count": 2, "max_model_len": 512, "tokens": [1, 2]}).encode()
MODELS = json.dumps({"object": "list", "data": [{"id": "base", "object": "model"}]}).encode()


async def app(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    answers = {"/v1/models": MODELS, "/health": b"", "/v1/completions": COMPLETION, "/tokenize": TOKENS}
    answer = answers.get(scope["path"])
    if answer is None:
        answer = CHAT_WITH_LOGPROBS if b'"top_logprobs"' in body else CHAT
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_level="warning", access_log=False, lifespan="off")
