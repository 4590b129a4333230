"""What each route of the OpenAI surface takes and answers: the other table that the OpenAPI document is made from."""

from reheatd.api.operations import ENGINE, EVENTS, JSON, Errors, Operation, Schema, in_path
from reheatd.errors import (
    AdapterInvalidError,
    BadInputError,
    ConflictError,
    EngineTimeoutError,
    ModelNotFoundError,
    NotFoundError,
    NotSupportedError,
    RateLimitError,
    SlotsFullError,
)
from reheatd.gateway import surface
from reheatd.gateway.surface import ClientRoute

MODEL_PATTERN = "^(policy|base|policy-v(0|[1-9][0-9]{0,8}))$"
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
    NotSupportedError,
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


_STREAM = "With `stream`, the answer is a stream of events."
_TEXTS: Schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}
_RESPONSE = in_path("response_id", {"type": "string", "minLength": 1}, "Id of a response.")
_POOLING: dict[str, tuple[str, Schema]] = {
    "/v1/embeddings": ("Embed texts.", {"input": _TEXTS}),
    "/v2/embed": ("The same in Cohere's form.", {"texts": {"type": "array", "items": {"type": "string"}}}),
    "/v1/score": ("How alike texts are.", {"text_1": _TEXTS, "text_2": _TEXTS}),
    "/score": ("The same as /v1/score.", {"text_1": _TEXTS, "text_2": _TEXTS}),
    "/v1/rerank": ("Order documents by a query.", {"query": {"type": "string"}, "documents": _TEXTS}),
    "/v2/rerank": ("The same as /v1/rerank.", {"query": {"type": "string"}, "documents": _TEXTS}),
    "/rerank": ("The same as /v1/rerank.", {"query": {"type": "string"}, "documents": _TEXTS}),
    "/classify": ("Classify texts.", {"input": _TEXTS}),
    "/pooling": ("What the model's pooler makes of texts.", {"input": _TEXTS}),
}


def _passed_on(route: ClientRoute, summary: str, fields: Schema, required: list[str]) -> Operation:
    """A route whose requests go to the engine; it checks the fields that are not named here."""
    return Operation(
        "POST",
        route.path,
        route.path.removeprefix("/v1/").replace("/", "_"),
        f"{summary} {_STREAM}" if route.streams else summary,
        {"type": "object"},
        errors=_OPENAI,
        body={"type": "object", "required": required, "properties": fields, "additionalProperties": True},
        media=(JSON, EVENTS) if route.streams else (JSON,),
    )


OPENAI: tuple[Operation, ...] = (
    _passed_on(
        surface.CHAT,
        "Answer a chat.",
        {"messages": _MESSAGES, "max_completion_tokens": _COUNT, **_GENERATED},
        ["messages"],
    ),
    _passed_on(surface.COMPLETIONS, "Complete a prompt.", {"prompt": _PROMPT, **_GENERATED}, ["prompt"]),
    _passed_on(
        surface.CHAT_BATCH,
        "Answer several chats at once, with one choice for each.",
        {
            "messages": {"type": "array", "items": _MESSAGES, "minItems": 1},
            "max_completion_tokens": _COUNT,
            **{name: field for name, field in _GENERATED.items() if name != "n"},
        },
        ["messages"],
    ),
    _passed_on(
        surface.RESPONSES,
        "Answer in OpenAI's newer form. Nothing is stored.",
        {
            "model": _MODEL,
            "input": {"anyOf": [{"type": "string"}, _MESSAGES]},
            "max_output_tokens": _COUNT,
            "top_logprobs": {"type": ["integer", "null"], "minimum": 0},
            "background": {"const": False},
            "store": {"type": ["boolean", "null"], "description": "Has no effect: responses are not stored."},
            "vllm_xargs": _XARGS,
        },
        ["input"],
    ),
    Operation(
        "GET",
        "/v1/responses/{response_id}",
        "stored_response",
        "A stored response. There is none.",
        errors=(NotFoundError,),
        parameters=(_RESPONSE,),
    ),
    Operation(
        "POST",
        "/v1/responses/{response_id}/cancel",
        "cancel_response",
        "Cancel a stored response. There is none.",
        errors=(NotFoundError,),
        parameters=(_RESPONSE,),
    ),
    _passed_on(
        surface.MESSAGES,
        "Answer in Anthropic's form.",
        {"model": _MODEL, "messages": _MESSAGES, "max_tokens": _COUNT, "vllm_xargs": _XARGS},
        ["messages", "max_tokens"],
    ),
    _passed_on(
        surface.COUNT_TOKENS,
        "How many tokens the prompt of a request in Anthropic's form has.",
        {"model": _MODEL, "messages": _MESSAGES},
        ["messages"],
    ),
    _passed_on(
        surface.TOKENIZE,
        "The tokens of a prompt or a chat.",
        {"model": _MODEL, "prompt": {"type": "string"}, "messages": _MESSAGES},
        [],
    ),
    _passed_on(
        surface.DETOKENIZE,
        "The text of tokens.",
        {"model": _MODEL, "tokens": {"type": "array", "items": {"type": "integer", "minimum": 0}}},
        ["tokens"],
    ),
    _passed_on(
        surface.DECISIONS,
        "Decide questions about a state by the probabilities of their labels.",
        {"model": _MODEL, "state": {}, "questions": {"type": "object"}},
        ["state", "questions"],
    ),
    _passed_on(
        surface.GENERATIVE_SCORING,
        "How probable given next tokens are after each item.",
        {"model": _MODEL, "query": _PROMPT, "items": _PROMPT, "label_token_ids": {"type": "array"}},
        ["query", "items", "label_token_ids"],
    ),
    *(
        _passed_on(route, _POOLING[route.path][0], {"model": _MODEL, **_POOLING[route.path][1]}, [])
        for route in surface.POOLING
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
