"""Stores when keys were used last, seldom enough that no request notices."""

import asyncio
from contextlib import closing
from pathlib import Path

from reheatd.access.keys import KeyRing, KeyStore
from reheatd.database import connect

WRITE_EVERY_S = 300.0


async def write_uses(database: Path, keys: KeyRing) -> None:
    """Writes the uses every few minutes, and at the end, until it is cancelled."""
    try:
        while True:
            await asyncio.sleep(WRITE_EVERY_S)
            await asyncio.to_thread(write_now, database, keys.take_uses())
    finally:
        write_now(database, keys.take_uses())


def write_now(database: Path, uses: dict[str, float]) -> None:
    """Writes uses through a connection of its own, because the daemon's belongs to its event loop's thread."""
    if uses:
        with closing(connect(database)) as db, db:
            KeyStore(db).record_uses(uses)
