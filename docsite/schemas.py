"""JSON schemas in words."""

from typing import Any

from docsite.markdown import code

Schema = dict[str, Any]

TYPES = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
BOUNDS = (
    ("minimum", "at least"),
    ("exclusiveMinimum", "above"),
    ("maximum", "at most"),
    ("exclusiveMaximum", "below"),
    ("minLength", "characters, at least"),
    ("maxLength", "characters, at most"),
    ("minItems", "entries, at least"),
)


def in_words(schema: Schema, *, linked: bool = False) -> str:
    """Which values a schema allows, e.g. `whole number, at least 1`.

    Args:
        linked: Link the names of other schemas to their headings on the same page.
    """
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})" if linked else code(name)
    if "const" in schema:
        return code(str(schema["const"]))
    if "enum" in schema:
        return ", ".join(code(str(value)) for value in schema["enum"])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            parts = (in_words(part, linked=linked) for part in schema[union])
            return " or ".join(dict.fromkeys(part for part in parts if part))
    kinds = schema["type"] if isinstance(schema.get("type"), list) else [schema.get("type")]
    return " or ".join(dict.fromkeys(_kind(kind, schema, linked) for kind in kinds if kind)) or "anything"


def _kind(kind: str, schema: Schema, linked: bool) -> str:
    if kind == "null":
        return "nothing"
    if kind == "array":
        items = schema.get("items")
        words = f"list of {in_words(items, linked=linked)}" if items else "list"
    elif kind == "object":
        words = "table"
    elif schema.get("format") == "path":
        words = "path"
    elif schema.get("format") == "binary":
        words = "bytes"
    else:
        words = TYPES[kind]
    return ", ".join([words, *(f"{name} {schema[key]}" for key, name in BOUNDS if key in schema)])
