"""API keys in the daemon's SQLite: who may come in, where to, and how much they may ask for.

The command line writes them, also while a daemon runs, and the daemon notices.
"""

import hmac
import re
import sqlite3
import time
from fnmatch import fnmatchcase
from typing import Literal

from pydantic import Field

from reheatd.access.tokens import digest_of, id_of, new_token
from reheatd.errors import BadInputError, ConflictError, NotFoundError
from reheatd.measures import Contract

Role = Literal["inference", "admin"]
"""What a key opens: the OpenAI-compatible surface, or administration as well."""

TABLES = """
CREATE TABLE IF NOT EXISTS api_keys (
    key_id TEXT PRIMARY KEY,
    digest BLOB NOT NULL,
    name TEXT NOT NULL,
    revoked_at REAL,
    last_used_at REAL,
    record TEXT NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS living_keys_by_name ON api_keys (name) WHERE revoked_at IS NULL;
"""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
LOCAL = "local"
"""Stands in the journal for whoever needs no key, so no key has this name."""
NOBODY = bytes(32)
"""A digest that no token has; compared with where there is no key, so that both cases take the same time."""


class ApiKey(Contract):
    """A key as it is listed; the token itself is nowhere."""

    key_id: str
    """The part of the token that is no secret."""
    name: str
    role: Role
    created_at: float
    """Seconds since the epoch, like the next two."""
    last_used_at: float | None = None
    """When it was used last, to within some minutes."""
    revoked_at: float | None = None
    models: list[str] | None = None
    """Names or patterns, e.g. `policy-v*`, of the models that it may ask; None means all."""
    requests_per_minute: int | None = Field(default=None, ge=1)
    concurrency: int | None = Field(default=None, ge=1)
    """Requests in flight; it takes the place of `server.max_concurrent_per_key`."""
    tokens_per_minute: int | None = Field(default=None, ge=1)
    """Tokens of prompts and answers together."""

    def may_ask(self, model: str) -> bool:
        return self.models is None or any(fnmatchcase(model, pattern) for pattern in self.models)


class KeyStore:
    """The keys, old ones too. Methods that write join the caller's transaction (`with db:`)."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        with db:
            db.executescript(TABLES)

    def create(
        self,
        name: str,
        role: Role = "inference",
        *,
        models: list[str] | None = None,
        requests_per_minute: int | None = None,
        concurrency: int | None = None,
        tokens_per_minute: int | None = None,
    ) -> tuple[ApiKey, str]:
        """Makes a key. The token that is returned with it cannot be had again.

        Raises:
            BadInputError: The name cannot be used.
            ConflictError: A key that is not revoked has the name.
        """
        if not NAME.fullmatch(name) or name == LOCAL:
            raise BadInputError(
                f"{name!r} is no name for a key; use up to 64 letters, digits, dots, dashes, underscores and @, but "
                f"not {LOCAL!r}",
                param="name",
            )
        key_id, token = new_token()
        key = ApiKey(
            key_id=key_id,
            name=name,
            role=role,
            created_at=time.time(),
            models=models,
            requests_per_minute=requests_per_minute,
            concurrency=concurrency,
            tokens_per_minute=tokens_per_minute,
        )
        try:
            self._db.execute(
                "INSERT INTO api_keys (key_id, digest, name, record) VALUES (?, ?, ?, ?)",
                (key_id, digest_of(token), name, key.model_dump_json()),
            )
        except sqlite3.IntegrityError as error:
            raise ConflictError(f"key {name} exists already; revoke it first, or choose another name") from error
        return key, token

    def all(self) -> list[ApiKey]:
        """All keys, the oldest first, with those that are revoked."""
        return [_key(row) for row in self._db.execute("SELECT * FROM api_keys ORDER BY rowid")]

    def living(self) -> list[tuple[ApiKey, bytes]]:
        """The keys that are not revoked, each with the digest of its token."""
        rows = self._db.execute("SELECT * FROM api_keys WHERE revoked_at IS NULL")
        return [(_key(row), row["digest"]) for row in rows]

    def has_admin(self) -> bool:
        return any(key.role == "admin" for key, _ in self.living())

    def revoke(self, name: str) -> ApiKey:
        """Revokes a key by its name, for good.

        Raises:
            NotFoundError: No key that is not revoked has the name.
        """
        for key, _ in self.living():
            if key.name == name:
                revoked = key.model_copy(update={"revoked_at": time.time()})
                self._db.execute(
                    "UPDATE api_keys SET revoked_at = ? WHERE key_id = ?", (revoked.revoked_at, key.key_id)
                )
                return revoked
        raise NotFoundError(f"no key {name} is in use; `reheatd keys list` shows them", param="name")

    def record_uses(self, uses: dict[str, float]) -> None:
        """Stores when keys were used last, by their ids, in seconds since the epoch."""
        self._db.executemany(
            "UPDATE api_keys SET last_used_at = ? WHERE key_id = ?", [(when, key_id) for key_id, when in uses.items()]
        )


class KeyRing:
    """The keys as the daemon knows them at this moment, in memory."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._store = KeyStore(db)
        self._seen = -1
        self._living: dict[str, tuple[ApiKey, bytes]] = {}
        self._uses: dict[str, float] = {}

    def find(self, token: str) -> ApiKey | None:
        """The key that the token belongs to; None if there is none, or if it is revoked."""
        # SQLite changes this number when another connection has written, so keys that the command line makes and
        # revokes count at once.
        seen: int = self._db.execute("PRAGMA data_version").fetchone()[0]
        if seen != self._seen:
            self._living = {key.key_id: (key, digest) for key, digest in self._store.living()}
            self._seen = seen
        key, digest = self._living.get(id_of(token) or "", (None, NOBODY))
        if not hmac.compare_digest(digest_of(token), digest) or key is None:
            return None
        self._uses[key.key_id] = time.time()
        return key

    def take_uses(self) -> dict[str, float]:
        """When keys were used last since the call before, by their ids."""
        uses, self._uses = self._uses, {}
        return uses


def _key(row: sqlite3.Row) -> ApiKey:
    key = ApiKey.model_validate_json(row["record"])
    return key.model_copy(update={"revoked_at": row["revoked_at"], "last_used_at": row["last_used_at"]})
