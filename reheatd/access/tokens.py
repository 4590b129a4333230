"""API tokens: `rh-ID-SECRET`, of which only a digest is stored.

The secret has 256 random bits. Nobody can try that many, so its SHA-256 is as good at rest as a slow hash, which
passwords need because people choose them from few. A slow hash would cost every request milliseconds.
"""

import hashlib
import re
import secrets

PREFIX = "rh-"
"""Beginning of every token of reheatd, by which people and scanners for leaked secrets know it."""
SECRET_BYTES = 32

_TOKEN = re.compile(rf"{PREFIX}([0-9a-f]{{8}})-[0-9a-f]{{{2 * SECRET_BYTES}}}")


def new_token() -> tuple[str, str]:
    """A new token: its public id, by which it is found, and the whole token."""
    key_id = secrets.token_hex(4)
    return key_id, f"{PREFIX}{key_id}-{secrets.token_hex(SECRET_BYTES)}"


def id_of(token: str) -> str | None:
    """The public id in a token; None if the text does not look like a token."""
    match = _TOKEN.fullmatch(token)
    return match[1] if match else None


def digest_of(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
