"""Tells webhooks what is worth an alert, from the journal, so that nothing is forgotten while the daemon is away."""

import asyncio
import logging
import sqlite3

import aiohttp
from tenacity import AsyncRetrying, before_sleep_log, retry_if_exception_type, stop_after_delay, wait_random_exponential

from reheatd.alerts.alert import Alert, Watcher
from reheatd.alerts.hooks import Hook, HookBusyError, HookRefusedError, is_told
from reheatd.config_alerts import AlertsSection
from reheatd.control.ledger import Ledger

logger = logging.getLogger(__name__)

TABLES = """
CREATE TABLE IF NOT EXISTS alerted (
    hook TEXT PRIMARY KEY,
    entry INTEGER NOT NULL,
    open TEXT
);
"""
LONGEST_PAUSE_S = 300.0
GIVE_UP_S = 86_400.0
"""An alert that a webhook has not taken for so long is given up, because newer ones wait behind it."""


class Alerter:
    """Reads the journal for each webhook, at that webhook's own pace.

    Args:
        policy, daemon: What alerts say of them.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        ledger: Ledger,
        settings: AlertsSection,
        hooks: list[Hook],
        *,
        policy: str,
        daemon: str,
    ) -> None:
        self._db = db
        self._ledger = ledger
        self._settings = settings
        self._hooks = hooks
        self._policy = policy
        self._daemon = daemon
        self._news = {hook.name: asyncio.Event() for hook in hooks}
        with db:
            db.executescript(TABLES)
            for hook in hooks:  # a webhook that is new is not told what happened before
                db.execute(
                    "INSERT INTO alerted (hook, entry) VALUES (?, ?) ON CONFLICT DO NOTHING",
                    (hook.name, ledger.newest_id),
                )

    def wake(self) -> None:
        """Says that the journal has a new entry."""
        for news in self._news.values():
            news.set()

    async def run(self) -> None:
        """Tells the webhooks what was not told yet, and then everything that comes."""
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            for hook in self._hooks:
                group.create_task(self._tell(hook, session))

    async def _tell(self, hook: Hook, session: aiohttp.ClientSession) -> None:
        news = self._news[hook.name]
        while True:
            news.clear()  # before the journal is read, so that no entry is missed
            row = self._db.execute("SELECT entry, open FROM alerted WHERE hook = ?", (hook.name,)).fetchone()
            watcher = Watcher(row["open"], policy=self._policy, daemon=self._daemon)
            entries = self._ledger.after(row["entry"])
            for entry in entries:
                status = None if entry.job_id is None else self._ledger.jobs.status(entry.job_id)
                for alert in watcher.read(entry, status):
                    if is_told(alert, self._settings):
                        await self._send(hook, session, alert)
                with self._db:
                    self._db.execute(
                        "UPDATE alerted SET entry = ?, open = ? WHERE hook = ?",
                        (entry.id, watcher.open, hook.name),
                    )
            if not entries:
                await news.wait()

    async def _send(self, hook: Hook, session: aiohttp.ClientSession, alert: Alert) -> None:
        """Sends an alert until it is taken or refused, or until it is given up."""
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception_type(HookBusyError),
                wait=wait_random_exponential(multiplier=1, max=LONGEST_PAUSE_S),
                stop=stop_after_delay(GIVE_UP_S),
                before_sleep=before_sleep_log(logger, logging.WARNING),
                reraise=True,
            ):
                with attempt:
                    await hook.send(session, alert)
        except (HookBusyError, HookRefusedError) as error:
            logger.error("alert %d is given up: %s", alert.id, error)
