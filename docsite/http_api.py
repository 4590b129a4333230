"""The page about the HTTP API, from the tables that the daemon's OpenAPI document is made from."""

from typing import Any

from docsite.markdown import code, page, table
from docsite.schemas import in_words
from reheatd.api.openai_operations import OPENAI
from reheatd.api.openapi import document
from reheatd.api.operations import ADMIN, Operation

INTRODUCTION = """\
The daemon publishes this as OpenAPI 3.1 at `GET /openapi.json`; the same document is beside this page as
[openapi.json](openapi.json). Where [API keys](../keys.md) are needed, send `Authorization: Bearer KEY`.
Every error is an object as OpenAI's: `{"error": {"message", "type", "param", "code"}}`. Its [code](errors.md) says what
to do; besides those that a route names, any may answer `internal_error`, and where keys are needed `invalid_api_key`
and `permission_denied`."""


def http_page() -> str:
    """The page, in Markdown."""
    published = document()
    schemas: dict[str, Any] = published["components"]["schemas"]
    parts = ["## For clients", *(_operation(each) for each in OPENAI)]
    parts += ["## For administration", *(_operation(each) for each in ADMIN)]
    parts += ["## Schemas", *(_schema(name, schemas[name]) for name in sorted(schemas))]
    return page("HTTP API", INTRODUCTION, *parts)


def _operation(operation: Operation) -> str:
    lines = [f"### {operation.method} {operation.path}", operation.summary]
    parameters = [
        (code(each["name"]), each["in"], in_words(each["schema"]), each.get("description", ""))
        for each in operation.parameters
    ]
    lines.append(table(("parameter", "in", "values", "what it is"), parameters))
    if isinstance(operation.body, tuple) and operation.body:
        lines.append("Takes " + " or ".join(_link(model.__name__) for model in operation.body) + ".")
    elif isinstance(operation.body, dict):
        fields = operation.body.get("properties", {})
        required = operation.body.get("required", ())
        rows = [
            (code(name), "yes" if name in required else "", in_words(schema), schema.get("description", ""))
            for name, schema in fields.items()
        ]
        lines.append(table(("field", "needed", "values", "what it is"), rows) or f"Takes `{operation.takes}`.")
    lines.append(_answer(operation))
    if operation.errors:
        codes = sorted({kind.code for kind in operation.errors})
        lines.append("Errors: " + ", ".join(f"[{code(each)}](errors.md#{each})" for each in codes) + ".")
    return "\n\n".join(line for line in lines if line)


def _answer(operation: Operation) -> str:
    if operation.answer is None:
        what = "nothing"
    elif isinstance(operation.answer, type):
        what = _link(operation.answer.__name__)
    else:
        what = " or ".join(code(media) for media in operation.media)
    also = "".join(f"; {status}: {_link(model.__name__)}" for status, model in operation.also.items())
    return f"Answers {operation.status}: {what}{also}."


def _schema(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        (code(field), "yes" if field in required else "", in_words(each, linked=True), each.get("description", ""))
        for field, each in schema.get("properties", {}).items()
    ]
    text = table(("field", "always", "values", "what it is"), rows) or in_words(schema, linked=True)
    return "\n\n".join(part for part in (f"### {name}", schema.get("description", ""), text) if part)


def _link(name: str) -> str:
    return f"[{name}](#{name.lower()})"
