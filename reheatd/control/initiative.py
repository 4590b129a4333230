"""What the daemon starts by itself while no job is queued: answers to a verdict, and rounds of continuous RL."""

import logging
import time

from reheatd.config_tables import ControlSection
from reheatd.control.dependencies import Dependencies
from reheatd.control.journal import Pause
from reheatd.control.ledger import ANSWERS, Ledger
from reheatd.control.pauses import brought_nothing, paused_reheats, paused_rounds
from reheatd.control.states import State, idle_state
from reheatd.jobs.contracts import JobRequest, JobStatus, ReheatRequest, RLRequest, Trigger
from reheatd.jobs.store import JobRecord

logger = logging.getLogger(__name__)

COOLING_TAU = 0.8
"""Temperature of the teacher that answers `too_hot`, as in the cooling of arXiv 2606.00755."""
TRIGGERS: dict[State, Trigger] = {State.COLLAPSED: "collapse", State.STALLED: "stall", State.TOO_HOT: "run_away"}


def answers_collapse(settings: ControlSection, ledger: Ledger) -> bool:
    """Whether a reheat follows a collapse without anybody's help."""
    return settings.mode == "auto" and "collapsed" in settings.trigger and paused_reheats(ledger) is None


class Initiative:
    """Makes the jobs that nobody asked for.

    `control.trigger` names the verdicts that are answered, and `control.mode` says how: `observe` only sets the state,
    `approve` makes a job that waits for approval, and `auto` makes one that runs at once. Between the end of such a job
    and the start of the next, at least `control.cooldown_s` pass, however the first ended. With `control.rl` =
    `continuous`, a round of RL begins whenever the policy is healthy and nothing else is to be done.
    """

    def __init__(self, dependencies: Dependencies) -> None:
        self._settings = dependencies.settings.control
        self._ledger = dependencies.ledger
        self._monitor = dependencies.monitor
        self._swaps = dependencies.swaps

    def next_job(self) -> JobRecord | None:
        """Makes the job to run now, if there is one; it may also make one that waits for approval."""
        return self._answer() or self._round()

    @property
    def pauses(self) -> list[Pause]:
        rounds = paused_rounds(self._ledger) if self._settings.rl == "continuous" else None
        return [pause for pause in (paused_reheats(self._ledger), rounds) if pause is not None]

    @property
    def cooldown_remaining_s(self) -> float:
        """Seconds until a verdict may be answered; 0 if it may be now."""
        return self._cooldown_after(next(self._ledger.jobs.newest_first(*ANSWERS), None))

    @property
    def due_in_s(self) -> float | None:
        """Seconds until the next cool-down is over; None if there is none."""
        return min((left for left in (self.cooldown_remaining_s, self._round_cooldown_s) if left > 0), default=None)

    @property
    def _round_cooldown_s(self) -> float:
        last = next(self._ledger.jobs.newest_first("round"), None)
        return 0.0 if last is None or not brought_nothing(last) else self._cooldown_after(last)

    def _cooldown_after(self, last: JobRecord | None) -> float:
        if last is None or last.job.finished_at is None:
            return 0.0
        left = last.job.finished_at + self._settings.cooldown_s - time.time()
        # What ended far in the future ended before the clock was set back. It must not hold the daemon up until then.
        return 0.0 if left > 2 * self._settings.cooldown_s else max(0.0, left)

    def _answer(self) -> JobRecord | None:
        state, verdict, mode = self._ledger.state, self._monitor.verdict, self._settings.mode
        # The state may be from before a restart, and probes or policy may have changed since; so the verdict decides.
        if verdict not in self._settings.trigger or idle_state(verdict) is not state or mode == "observe":
            return None
        if any(record.job.trigger in ANSWERS for record in self._ledger.jobs.waiting()):
            return None
        if self.cooldown_remaining_s > 0 or paused_reheats(self._ledger) is not None:
            return None
        status = JobStatus.QUEUED if mode == "auto" else JobStatus.AWAITING_APPROVAL
        record = self._create(self._cooling() if verdict == "too_hot" else ReheatRequest(), TRIGGERS[state], status)
        return record if mode == "auto" else None

    def _cooling(self) -> ReheatRequest:
        """A cooling to the entropy that a reheat leads to."""
        limits = self._monitor.thresholds
        assert limits is not None  # there is a verdict, so there are thresholds
        return ReheatRequest(tau=COOLING_TAU, target_entropy=limits.target)

    def _round(self) -> JobRecord | None:
        # A verdict of which `patience` asks for one more window is waited for, since a round ends its version.
        healthy = self._monitor.verdict in ("ok", "warning") and not self._monitor.is_undecided
        if self._settings.rl != "continuous" or self._ledger.state is not State.SERVING or not healthy:
            return None
        # A version that waits for approval could not be promoted after a round from the same parent.
        if self._ledger.jobs.waiting() or self._round_cooldown_s > 0 or paused_rounds(self._ledger) is not None:
            return None
        return self._create(RLRequest(), "round", JobStatus.QUEUED)

    def _create(self, request: JobRequest, trigger: Trigger, status: JobStatus) -> JobRecord:
        record = self._ledger.create(request, trigger, status, self._swaps.promoted)
        logger.info("%s (%s): %s", record.job.job_id, trigger, status)
        return record
