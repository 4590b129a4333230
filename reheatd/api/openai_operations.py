"""What each route of the OpenAI surface takes and answers: the other table that the OpenAPI document is made from."""

from reheatd.api.operations import ENGINE, JSON, Errors, Operation, Schema, in_path
from reheatd.errors import (
    AdapterInvalidError,
    BadInputError,
    ConflictError,
    EngineTimeoutError,
    ModelNotFoundError,
    RateLimitError,
    SlotsFullError,
)
from reheatd.gateway.app import GENERATING_PATHS

MODEL_PATTERN = "^(policy|base|policy-v(0|[1-9][0-9]{0,8}))$"
EVENTS = "text/event-stream"

_COUNT: Schema = {"type": ["integer", "null"], "minimum": 1}
_MODEL: Schema = {
    "type": "string",
    "pattern": MODEL_PATTERN,
    "default": "policy",
    "description": "`policy` is the version that is promoted now, `policy-vN` pins one, `base` is the bare base.",
}
_XARGS: Schema = {
    "type": ["object", "null"],
    "description": "reheatd adds who the tokens are for, for the entropy tap.",
}
_GENERATED: Schema = {
    "model": _MODEL,
    "n": _COUNT | {"description": "Counts towards `server.max_logprobs`, as the next three do."},
    "max_tokens": _COUNT,
    "logprobs": {"type": ["boolean", "integer", "null"]},
    "top_logprobs": {"type": ["integer", "null"], "minimum": 0},
    "vllm_xargs": _XARGS,
}
_MESSAGE: Schema = {
    "type": "object",
    "required": ["role", "content"],
    "properties": {"role": {"enum": ["system", "user", "assistant"]}, "content": {"type": "string"}},
}
_MESSAGES: Schema = {"type": "array", "items": _MESSAGE, "minItems": 1}
_PROMPT: Schema = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}, "minItems": 1},
        {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
    ]
}
_OPENAI: Errors = (
    BadInputError,
    AdapterInvalidError,
    ModelNotFoundError,
    ConflictError,
    SlotsFullError,
    RateLimitError,
    *ENGINE,
    EngineTimeoutError,
)
_MODEL_VIEW: Schema = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by", "root"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": {"type": "integer"},
        "owned_by": {"const": "reheatd"},
        "root": {"type": "string"},
    },
}


def _passed_on(path: str, summary: str, fields: Schema, required: list[str]) -> Operation:
    """A route whose requests go to the engine; it checks the fields that are not named here."""
    return Operation(
        "POST",
        path,
        path.removeprefix("/v1/").replace("/", "_"),
        summary,
        {"type": "object"},
        errors=_OPENAI,
        body={"type": "object", "required": required, "properties": fields, "additionalProperties": True},
        media=(JSON, EVENTS) if path in GENERATING_PATHS else (JSON,),
    )


OPENAI: tuple[Operation, ...] = (
    _passed_on(
        "/v1/chat/completions",
        "Answer a chat. With `stream`, the answer is a stream of events.",
        {"messages": _MESSAGES, "max_completion_tokens": _COUNT, **_GENERATED},
        ["messages"],
    ),
    _passed_on(
        "/v1/completions",
        "Complete a prompt. With `stream`, the answer is a stream of events.",
        {"prompt": _PROMPT, **_GENERATED},
        ["prompt"],
    ),
    _passed_on(
        "/tokenize",
        "The tokens of a prompt or a chat.",
        {"model": _MODEL, "prompt": {"type": "string"}, "messages": _MESSAGES},
        [],
    ),
    _passed_on(
        "/detokenize",
        "The text of tokens.",
        {"model": _MODEL, "tokens": {"type": "array", "items": {"type": "integer", "minimum": 0}}},
        ["tokens"],
    ),
    Operation(
        "GET",
        "/v1/models",
        "models",
        "The names that a request may give as its model.",
        {
            "type": "object",
            "required": ["object", "data"],
            "properties": {"object": {"const": "list"}, "data": {"type": "array", "items": _MODEL_VIEW}},
        },
        links={"model": {"name": "$response.body#/data/0/id"}},
    ),
    Operation(
        "GET",
        "/v1/models/{name}",
        "model",
        "One of them.",
        _MODEL_VIEW,
        errors=(ModelNotFoundError,),
        parameters=(in_path("name", {"type": "string", "pattern": MODEL_PATTERN}, "A model's name."),),
    ),
)
"""The OpenAI surface: the fields that reheatd reads itself. The engine reads all others, and refuses what it cannot."""
