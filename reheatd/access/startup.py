"""What must be in order before the server may listen: a key for administration where keys are needed."""

import sqlite3
from collections.abc import Callable
from contextlib import closing

from reheatd.access.jobs import write_secret
from reheatd.access.keys import ApiKey, KeyStore
from reheatd.config import Settings
from reheatd.database import connect
from reheatd.errors import BadInputError

FIRST_KEY = "first"


def check_keys(settings: Settings, on_made: Callable[[sqlite3.Connection, ApiKey], None]) -> None:
    """Checks that somebody can administer the daemon, and makes the first key if `server.admin_key_file` asks for it.

    Args:
        on_made: Called with the first key, if it is made, in the transaction that stores it.

    Raises:
        BadInputError: Keys are needed and none is for administration, or the file cannot be written.
    """
    server = settings.server
    if not server.needs_keys:
        return
    with closing(connect(settings.database_path)) as db:
        store = KeyStore(db)
        if store.has_admin():
            return
        file = server.admin_key_file
        if file is None:
            why = "require_keys = true" if server.wide_host is None else f"the server listens on {server.wide_host}"
            raise BadInputError(
                f"{why}, so API keys are needed, and none is for administration; make one with `reheatd keys create "
                f"admin --role admin --data-dir {settings.data_dir}`",
                param="server.require_keys",
            )
        try:
            with db:
                key, token = store.create(FIRST_KEY, "admin")
                file.unlink(missing_ok=True)  # a key of another data folder, or one that was revoked
                write_secret(file, f"{token}\n".encode())
                on_made(db, key)
        except OSError as error:
            raise BadInputError(
                f"server.admin_key_file = {file} cannot be written ({error.strerror}); name another file",
                param="server.admin_key_file",
            ) from error
