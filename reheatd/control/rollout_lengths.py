"""The lengths of rollouts that were found, in SQLite: all jobs on a policy and task have one.

So their answers to held-out problems can be compared, whatever a policy that has learned or collapsed writes by then.
"""

import hashlib
import json
import sqlite3
import time

from reheatd.config_tables import PolicySection
from reheatd.jobs.rollout_length import RolloutLength
from reheatd.options import TaskOptions
from reheatd.tasks.sources import from_anywhere

TABLES = """
CREATE TABLE IF NOT EXISTS rollout_lengths (key TEXT PRIMARY KEY, time REAL NOT NULL, max_tokens INTEGER NOT NULL);
"""

OF_PROMPTS = ("subset", "split", "columns", "arguments")
"""Options of a task that decide its prompts, beside the path."""


class RolloutLengths:
    """The lengths that were found for the tasks of one policy.

    Args:
        policy_digest: `base_digest` of the policy's base model.
        policy: How it is served.
    """

    def __init__(self, db: sqlite3.Connection, policy_digest: str, policy: PolicySection) -> None:
        self._db = db
        self._max_model_len = policy.length
        self._of_policy = [policy_digest, policy.chat_template, policy.chat_template_kwargs]
        with db:
            db.executescript(TABLES)

    def known(self, task: TaskOptions, probe_digest: str) -> int | None:
        """Tokens per rollout on a task, as they were found earlier; None if they were not.

        Args:
            probe_digest: Digest of the probes.
        """
        key = self._key(task, probe_digest, self._max_model_len)
        row = self._db.execute("SELECT max_tokens FROM rollout_lengths WHERE key = ?", (key,)).fetchone()
        return None if row is None else row["max_tokens"]

    def save(self, task: TaskOptions, probe_digest: str, found: RolloutLength) -> None:
        """Keeps what was found, unless a length for the same is kept already."""
        with self._db:
            self._db.execute(
                "INSERT OR IGNORE INTO rollout_lengths VALUES (?, ?, ?)",
                (self._key(task, probe_digest, found.max_model_len), time.time(), found.tokens),
            )

    def _key(self, task: TaskOptions, probe_digest: str, max_model_len: int) -> str:
        # The probes are prompts of the task, so their digest changes with what is in the task's file.
        of_task = [str(from_anywhere(task.path)), *(getattr(task, name) for name in OF_PROMPTS), probe_digest]
        parts = ["rollouts", self._of_policy, of_task, max_model_len]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
