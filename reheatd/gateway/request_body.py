"""Reads the JSON of a request, and refuses values that JSON does not have or that no tokenizer and no engine can take.

Python's reader accepts NaN, infinities, lone surrogates and whole numbers of any size, and would pass them on. The
engine then answers with a 500.
"""

import json
import math
import re
import zlib
from typing import Any, NoReturn

from starlette.requests import Request

from reheatd.errors import BadInputError

LARGEST = 64 << 20
"""Largest body in bytes that is unpacked."""
GZIP = 16 + zlib.MAX_WBITS
"""Tells zlib to expect gzip's header."""
WHOLE_NUMBERS = range(-(2**63), 2**64)
"""What fits into 64 bits, with a sign or without; vLLM's processes cannot send each other other whole numbers."""

_PERHAPS_UNFIT = re.compile(rb"\\u|[0-9]{19}")
"""What JSON in UTF-8 has somewhere if one of its texts or whole numbers is unfit."""


async def read_body(request: Request) -> dict[str, Any]:
    """The request's body, which may be packed with gzip.

    Raises:
        BadInputError: As for `parse_body`; or it is packed in another way, damaged, or larger than `LARGEST`.
    """
    raw = await request.body()
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("gzip", "x-gzip"):
        raw = _unpacked(raw)
    elif encoding != "identity":
        raise BadInputError(
            f"content-encoding is {encoding[:40]!r}; send the body as it is, or packed with gzip",
            param="content-encoding",
        )
    return parse_body(raw)


def _unpacked(raw: bytes) -> bytes:
    unpacker = zlib.decompressobj(GZIP)
    try:
        content = unpacker.decompress(raw, LARGEST)
    except zlib.error as error:
        raise BadInputError(f"the request body is not valid gzip: {error}", param="body") from error
    if unpacker.unconsumed_tail:
        raise BadInputError(f"the request body has more than {LARGEST} bytes when it is unpacked", param="body")
    if not unpacker.eof:
        raise BadInputError("the request body ends in the middle of its gzip stream", param="body")
    return content


def parse_body(raw: bytes) -> dict[str, Any]:
    """The request's body.

    Raises:
        BadInputError: It is no JSON object in UTF-8, or holds a number that is not finite or does not fit into 64 bits,
            or text with a null character or half of a surrogate pair; `param` says where.
    """
    try:
        # From bytes, `json` would read other encodings as well, and halves of surrogate pairs in UTF-8.
        body = json.loads(raw.decode("utf-8-sig"), parse_constant=_refuse_constant, parse_float=_finite)
    except BadInputError:
        raise
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"the request body is not valid JSON: {error}", param="body") from error
    if not isinstance(body, dict):
        raise BadInputError(f"the request body must be a JSON object, got {type(body).__name__}", param="body")
    if _PERHAPS_UNFIT.search(raw):
        _check_values(body)
    return body


def _refuse_constant(name: str) -> NoReturn:
    raise BadInputError(f"the request body holds {name}, which is no JSON; give a finite number", param="body")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise BadInputError(f"the request body holds {text[:40]}, which is too large for a number", param="body")
    return value


def _check_values(body: dict[str, Any]) -> None:
    """Looks at all whole numbers and all texts, keys included."""
    left: list[tuple[str, Any]] = [("", body)]
    while left:
        path, value = left.pop()
        if isinstance(value, str):
            _check_text(path, value)
        elif isinstance(value, int) and value not in WHOLE_NUMBERS:
            raise BadInputError(f"{path} is a whole number of more than 64 bits; give a smaller one", param=path)
        elif isinstance(value, list):
            left += [(f"{path}[{index}]", item) for index, item in enumerate(value)]
        elif isinstance(value, dict):
            for key, item in value.items():
                _check_text(path or "body", key)
                left.append((f"{path}.{key}" if path else key, item))


def _check_text(path: str, text: str) -> None:
    if "\0" in text:
        raise BadInputError(f"{path} holds a null character; leave it out", param=path)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(text[error.start]):04x}"
        raise BadInputError(
            f"{path} holds {half}, half of a surrogate pair; send the whole character", param=path
        ) from error
