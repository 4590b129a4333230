"""The learning signal of RL in SQLite: what each step's groups of rollouts taught, and whether the run has stalled.

The steps of RL jobs in a row make one run as long as each job starts from the version of the job before, or from the
same version as that job. A reheat, an import or a promotion by request of another version begins a new run.
"""

import sqlite3
import time
from collections.abc import Callable, Mapping

from pydantic import Field

from reheatd.config_tables import EntropySection
from reheatd.database import readable
from reheatd.entropy.regime import SignalStep, stays_stalled
from reheatd.measures import Contract

TABLES = """
CREATE TABLE IF NOT EXISTS learning_steps (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    run INTEGER NOT NULL,
    job_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    job_step INTEGER NOT NULL,
    step TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS learning_steps_by_run ON learning_steps (run);
"""

GROUPS = ("groups", "groups_varied", "groups_all_fail", "groups_all_pass")
"""The metrics of a step of RL without which it says nothing."""


class LearningStep(Contract):
    """One step of RL."""

    time: float = Field(default_factory=time.time)
    number: int
    """Its number in the run, from 1."""
    groups: float
    """Number of groups of rollouts that were sampled."""
    varied: float
    """Number of groups whose rewards differ."""
    all_fail: float
    """Number of groups in which no rollout is rewarded."""
    all_pass: float
    """Number of groups in which every rollout is rewarded fully."""
    reward: float | None = None
    """Mean reward of the rollouts."""
    grad_norm: float | None = None
    """Norm of the gradient before it was clipped; None if the step had nothing to learn from."""
    stalled: bool = False
    """Whether the run has stalled after this step."""

    @property
    def signal(self) -> SignalStep:
        varied, all_fail, all_pass = (count / self.groups for count in (self.varied, self.all_fail, self.all_pass))
        return SignalStep(varied=varied, all_fail=all_fail, all_pass=all_pass, groups=self.groups)


class LearningSignal:
    """Keeps the steps of RL.

    Args:
        settings: The thresholds of `stalled`.
        job_of: Returns the id of the job that made a version; None if no job did.
    """

    def __init__(self, db: sqlite3.Connection, settings: EntropySection, job_of: Callable[[int], str | None]) -> None:
        self._db = db
        self._settings = settings
        self._job_of = job_of
        self._read: dict[tuple[int, int], list[LearningStep]] = {}
        """What `last` has returned since the last step; every status asks for it."""
        with db:
            db.executescript(TABLES)

    def add(self, job_id: str, parent: int, job_step: int, metrics: Mapping[str, float]) -> None:
        """Adds a step of a running RL job that started from version `parent`; reports without groups are left out.

        A step that a resumed job takes again replaces the one before, with all that followed it.
        """
        if not metrics.keys() >= set(GROUPS) or metrics["groups"] <= 0:
            return
        with self._db:
            self._read.clear()
            self._db.execute("DELETE FROM learning_steps WHERE job_id = ? AND job_step >= ?", (job_id, job_step))
            before = self.last(self._settings.stall_steps, parent)
            groups, varied, all_fail, all_pass = (metrics[name] for name in GROUPS)
            step = LearningStep(
                number=before[-1].number + 1 if before else 1,
                groups=groups,
                varied=varied,
                all_fail=all_fail,
                all_pass=all_pass,
                reward=metrics.get("reward"),
                grad_norm=metrics.get("grad_norm"),
            )
            newest = [each.signal for each in [*before, step]][-self._settings.stall_steps :]
            step.stalled = stays_stalled(bool(before) and before[-1].stalled, newest, self._settings)
            run = self._run_of(parent) or self._newest_run() + 1
            self._db.execute(
                "INSERT INTO learning_steps (run, job_id, version, job_step, step) VALUES (?, ?, ?, ?, ?)",
                (run, job_id, parent, job_step, step.model_dump_json()),
            )
        self._read.clear()

    def last(self, count: int, version: int) -> list[LearningStep]:
        """The newest `count` steps of the run that led to a version or tried to continue it, the oldest first.

        Returns:
            Empty if the newest step belongs to another run.
        """
        if (count, version) not in self._read:
            rows = self._db.execute(
                "SELECT id, step FROM learning_steps WHERE run = ? ORDER BY id DESC LIMIT ?",
                (self._run_of(version), count),
            ).fetchall()
            self._read[count, version] = readable(LearningStep, reversed(rows), column="step", key="id")
        return self._read[count, version]

    def is_stalled(self, version: int) -> bool:
        """Whether the run that a version belongs to has stalled."""
        return any(step.stalled for step in self.last(1, version))

    def _run_of(self, version: int) -> int | None:
        """The run of the newest step, if the version belongs to it."""
        row = self._db.execute("SELECT * FROM learning_steps ORDER BY id DESC LIMIT 1").fetchone()
        if row is None or (row["version"] != version and row["job_id"] != self._job_of(version)):
            return None
        return row["run"]

    def _newest_run(self) -> int:
        return self._db.execute("SELECT MAX(run) AS run FROM learning_steps").fetchone()["run"] or 0
