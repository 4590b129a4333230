"""The OpenAPI 3.1 document of both surfaces, made from the code that answers."""

import asyncio
import json
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from typing import Any, Literal, cast

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from reheatd.access.guard import OPEN_PATHS
from reheatd.api.openai_operations import OPENAI
from reheatd.api.operations import ADMIN, BEHIND_KEYS, EVENTS, EVERYWHERE, JSON, TEXT, Operation, Schema
from reheatd.errors import ReheatdError
from reheatd.gateway.app import ENGINE_HEADER, REQUEST_ID_HEADER, VERSION_HEADER
from reheatd.gateway.surface import PROXIED_PATHS

Mode = Literal["validation", "serialization"]
References = dict[tuple[type[BaseModel], Mode], Schema]

KEYS = "An API key. Only a server that listens on loopback may do without keys."
ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "What is wrong, and what to do about it."},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"], "description": "The field or parameter at fault."},
                "code": {"type": ["string", "integer", "null"]},
            },
        }
    },
}
HEADERS: Schema = {
    VERSION_HEADER: {"schema": {"type": "string"}, "description": "The version that answered."},
    ENGINE_HEADER: {"schema": {"type": "string"}, "description": "The engine that answered."},
    REQUEST_ID_HEADER: {"schema": {"type": "string"}, "description": "The request's own id, or a new one."},
}
ENGINE_STATUSES = {400: "Refused.", 404: "Not found.", 422: "Cannot be processed.", 501: "Not supported."}
"""What the engine itself may answer with, as an OpenAI-style object whose code is the status."""


async def openapi(request: Request) -> Response:
    """Answers with the document."""
    return Response(await asyncio.to_thread(_document_json), media_type="application/json")


@cache
def _document_json() -> bytes:
    return json.dumps(document()).encode()


def document() -> dict[str, Any]:
    """The document: every path of the OpenAI surface and of the admin API, with all statuses that it answers."""
    operations = (*OPENAI, *ADMIN)
    references, components = _schemas(operations)
    paths: dict[str, Any] = {}
    for operation in operations:
        made = _operation(operation, references)
        paths.setdefault(operation.path, {})[operation.method.lower()] = made
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "reheatd",
            "version": metadata.version("reheatd"),
            "description": "The OpenAI-compatible surface that clients ask, and the admin API of the daemon.",
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "security": [{}, {"key": []}],
        "components": {
            "schemas": {"Error": ERROR, **components},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": KEYS}},
        },
    }


def _schemas(operations: Iterable[Operation]) -> tuple[References, dict[str, Schema]]:
    """References to the schemas of all models that the operations name, and these schemas."""
    wanted: dict[tuple[type[BaseModel], Mode], None] = {}
    for operation in operations:
        answers = [*([operation.answer] if isinstance(operation.answer, type) else ()), *operation.also.values()]
        wanted |= {(model, "serialization"): None for model in answers}
        if isinstance(operation.body, tuple):
            wanted |= {(model, "validation"): None for model in operation.body}
    references, definitions = models_json_schema(list(wanted), ref_template="#/components/schemas/{model}")
    return cast(References, references), definitions.get("$defs", {})


def _operation(operation: Operation, references: References) -> Schema:
    made: Schema = {
        "operationId": operation.name,
        "summary": operation.summary,
        "tags": ["OpenAI" if operation in OPENAI else "admin"],
        "responses": _responses(operation, references),
    }
    if operation.parameters:
        made["parameters"] = list(operation.parameters)
    if operation.body:
        body = {operation.takes: {"schema": _body(operation.body, references)}}
        made["requestBody"] = {"required": True, "content": body}
    return made


def _body(body: tuple[type[BaseModel], ...] | Schema, references: References) -> Schema:
    if isinstance(body, dict):
        return body
    kinds = [references[model, "validation"] for model in body]
    return kinds[0] if len(kinds) == 1 else {"oneOf": kinds}


def _responses(operation: Operation, references: References) -> dict[str, Schema]:
    everywhere = EVERYWHERE if operation.path in OPEN_PATHS else (*EVERYWHERE, *BEHIND_KEYS)
    responses = {str(status): response for status, response in _errors((*operation.errors, *everywhere)).items()}
    for status, model in operation.also.items():
        responses[str(status)] = {"description": "See the body.", "content": _json(references[model, "serialization"])}
    if operation.path in PROXIED_PATHS:
        for status, description in ENGINE_STATUSES.items():
            says = f"{description} The engine or reheatd says why."
            responses[str(status)] = {"description": says, "content": _json(_error_ref())}
    responses[str(operation.status)] = _success(operation, references)
    return dict(sorted(responses.items()))


def _success(operation: Operation, references: References) -> Schema:
    made: Schema = {"description": "Done."}
    if operation.answer is not None:
        answer = operation.answer
        schema = references[answer, "serialization"] if isinstance(answer, type) else answer
        made["content"] = {kind: {"schema": TEXT if kind == EVENTS else schema} for kind in operation.media}
        if operation.media == (EVENTS,):
            made["content"][EVENTS]["x-data"] = schema  # OpenAPI has no word for the data of an event
    if operation.links:
        made["links"] = {
            name: {"operationId": name, "parameters": parameters} for name, parameters in operation.links.items()
        }
    if operation.path in PROXIED_PATHS:
        made["headers"] = HEADERS
    return made


def _errors(kinds: Iterable[type[ReheatdError]]) -> dict[int, Schema]:
    """The responses for these errors, by status, with the codes that tell them apart."""
    by_status: dict[int, list[type[ReheatdError]]] = {}
    for kind in kinds:
        by_status.setdefault(kind.status, []).append(kind)
    responses: dict[int, Schema] = {}
    for status, alike in by_status.items():
        codes = list(dict.fromkeys(kind.code for kind in alike))
        coded = {"properties": {"error": {"properties": {"code": {"enum": codes}}}}}
        responses[status] = {
            "description": " ".join(dict.fromkeys((kind.__doc__ or "").splitlines()[0] for kind in alike)),
            "content": _json({"allOf": [_error_ref(), coded]}),
        }
        if status in (429, 503):
            responses[status]["headers"] = {"Retry-After": {"schema": {"type": "string"}}}
    return responses


def _error_ref() -> Schema:
    return {"$ref": "#/components/schemas/Error"}


def _json(schema: Schema) -> Schema:
    return {JSON: {"schema": schema}}
