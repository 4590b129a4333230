"""A daemon with a long history in front of an engine that only pretends: it is there in seconds."""

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx

from reheatd.adapters.store import AdapterStore
from reheatd.database import connect
from reheatd.process.ports import reserve_port
from tests.daemon import Daemon, running
from tests.long_history import fill
from tests.random_adapter import random_adapter
from tests.waiting import wait_until


@contextmanager
def stub_engine() -> Iterator[str]:
    """An engine that answers at once; its URL."""
    port = reserve_port()
    process = subprocess.Popen([sys.executable, "-m", "bench.stub_engine", str(port)])
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _answers(url))
        yield url
    finally:
        process.terminate()
        process.wait()


@contextmanager
def written_history(
    folder: Path, model: Path, *, windows: int, versions: int, **tables: dict[str, Any]
) -> Iterator[dict[str, dict[str, Any]]]:
    """Makes a data folder with a history in `folder`, and an engine; the tables for daemons that run on both.

    Args:
        windows: Number of windows of the probes; the last one is as old as the folder.
        versions: Number of versions; the last one is promoted.
    """
    with stub_engine() as url:
        tables = {"workers": {"count": 0}, "control": {"mode": "observe"}, **tables, "engine": {"url": url}}
        with running(folder, model, **tables) as daemon:
            data_dir = daemon.data_dir
            key = wait_until(lambda: _key(data_dir))
        adapter = random_adapter(folder / "adapter", model, rank=1)
        # In a thread of its own, because a browser's driver may keep this one's event loop.
        with ThreadPoolExecutor(1) as writer:
            writer.submit(_write, data_dir, key, adapter, windows, versions).result()
        yield tables


@contextmanager
def history_daemon(
    folder: Path, model: Path, *, windows: int, versions: int, **tables: dict[str, Any]
) -> Iterator[Daemon]:
    """A daemon on such a folder; see `written_history`."""
    with (
        written_history(folder, model, windows=windows, versions=versions, **tables) as tables,
        running(folder, model, **tables) as daemon,
    ):
        yield daemon


def _write(data_dir: Path, key: str, adapter: Path, windows: int, versions: int) -> None:
    with closing(connect(data_dir / "reheatd.sqlite3")) as db:
        with db:
            for table in ("entropy_windows", "entropy_tails", "journal"):
                db.execute(f"DELETE FROM {table}")
        fill(db, key, windows=windows, versions=versions, end=time.time())
        store = AdapterStore(data_dir / "adapters", db)
        for parent in range(versions):
            asyncio.run(store.publish(adapter, parent=parent, base_model="tiny", base_digest="", kind="rl"))
        store.promote(versions)


def _key(data_dir: Path) -> str | None:
    """Key of the series, once its baseline is measured."""
    with closing(sqlite3.connect(data_dir / "reheatd.sqlite3")) as db:
        row = db.execute("SELECT key FROM entropy_baselines").fetchone()
    return None if row is None else row[0]


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
