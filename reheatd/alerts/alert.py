"""What an alert says, and which entries of the journal are worth one."""

from collections.abc import Iterator
from typing import Literal

from reheatd.config_alerts import Severity
from reheatd.control.journal import JournalEntry
from reheatd.control.states import IDLE, State
from reheatd.jobs.contracts import JobStatus
from reheatd.measures import Contract
from reheatd.names import version_name

Kind = Literal["verdict", "job", "promotion", "test"]
"""What an alert is about: the verdict on the promoted version, the end of a job, a promotion, or nothing (a test)."""

WRONG: dict[State, Severity] = {State.COLLAPSED: "critical", State.STALLED: "warning", State.TOO_HOT: "warning"}
"""The states in which something is wrong with the policy, and how bad it is."""
WELL = (State.SERVING, State.CONTINUING_RL)
"""The states in which nothing is wrong with the policy."""
ENDS: dict[JobStatus, Severity] = {
    JobStatus.FAILED: "warning",
    JobStatus.REJECTED: "warning",
    JobStatus.AWAITING_APPROVAL: "warning",
    JobStatus.CANCELLED: "info",
}
"""How jobs end that bring no new version, or none yet."""


class Alert(Contract):
    """One alert, as a webhook gets it."""

    id: int
    """Number of the journal's entry; 0 for a test. An alert that comes twice, because its receipt was lost, has the
    same number and kind."""
    time: float
    """Seconds since the epoch."""
    kind: Kind
    severity: Severity
    resolved: bool = False
    """Whether this says that an earlier alert about the verdict, of this severity, is over."""
    summary: str
    policy: str
    """The base model, as it is configured."""
    state: State
    """State of the control loop."""
    version: str | None = None
    job_id: str | None = None
    daemon: str
    """URL of the daemon."""


class Watcher:
    """Reads the journal, entry by entry, and tells what is worth an alert.

    Args:
        open: Severity of the newest alert about the verdict; None if that is resolved.
        policy, daemon: What alerts say of them.
    """

    def __init__(self, open: Severity | None, *, policy: str, daemon: str) -> None:
        self.open: Severity | None = open
        self._policy = policy
        self._daemon = daemon

    def read(self, entry: JournalEntry, status: JobStatus | None) -> Iterator[Alert]:
        """The alerts that an entry is worth.

        Args:
            status: Status of the job that the entry names.
        """
        if entry.event == "promoted":
            # If nobody asked for it and no job made it, the version before could not be served any more.
            fell_back = entry.actor is None and entry.job_id is None
            yield self._alert(entry, "promotion", "critical" if fell_back else "info")
        if entry.event != "transition":
            return
        if entry.to_state in IDLE and status is not None and status in ENDS:
            yield self._alert(entry, "job", ENDS[status])
        severity = WRONG.get(entry.to_state)
        if severity is not None and severity != self.open:
            self.open = severity
            yield self._alert(entry, "verdict", severity)
        if entry.to_state in WELL and self.open is not None:
            yield self._alert(entry, "verdict", self.open, resolved=True)
            self.open = None

    def _alert(self, entry: JournalEntry, kind: Kind, severity: Severity, *, resolved: bool = False) -> Alert:
        return Alert(
            id=entry.id,
            time=entry.time,
            kind=kind,
            severity=severity,
            resolved=resolved,
            summary=entry.reason,
            policy=self._policy,
            state=entry.to_state,
            version=None if entry.version is None else version_name(entry.version),
            job_id=entry.job_id,
            daemon=self._daemon,
        )
