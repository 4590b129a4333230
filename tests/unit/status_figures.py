"""A daemon's status with something in every part of it."""

import time
from typing import Any

from reheatd.api.schemas import (
    EngineHealth,
    Intention,
    LearningView,
    PartHealth,
    PromotedVersion,
    RequestTotals,
    StatusView,
    ThresholdsView,
    WorkersHealth,
)
from reheatd.control.journal import Pause
from reheatd.control.states import State
from reheatd.jobs.contracts import Job
from reheatd.measures import EntropyEstimate
from reheatd.metrics.recent import RecentRequests
from reheatd.runlog.signals import SignalFigures

ENTROPY = EntropyEstimate(mean=0.105, low=0.092, high=0.117, tokens=1000, sequences=32)
BASELINE = EntropyEstimate(mean=2.11, low=1.868, high=2.352, tokens=3000, sequences=96)


def job(**fields: Any) -> Job:
    values: dict[str, Any] = {
        "job_id": "rl-1a2b3c4d",
        "kind": "rl",
        "status": "running",
        "trigger": "follow_up",
        "created_at": time.time() - 60,
        "started_at": time.time() - 30,
        "parent_version": 3,
        "request": {"kind": "rl"},
        "phase": "training",
        "step": 3,
        "steps": 9,
    }
    return Job.model_validate(values | fields)


def status(**fields: Any) -> StatusView:
    values: dict[str, Any] = {
        "readiness": "ready",
        "state": State.CONTINUING_RL,
        "mode": "auto",
        "policy": "some/policy",
        "promoted": PromotedVersion(version=3, name="policy-v3"),
        "verdict": "collapsed",
        "entropy": ENTROPY,
        "baseline": BASELINE,
        "baseline_of": "policy",
        "reference": None,
        "ratio": 0.05,
        "thresholds": ThresholdsView(
            collapsed=0.211, warning=0.253, too_hot=1.055, target=0.317, because="10% of the baseline"
        ),
        "reason": "2 windows in a row with the upper limit, now 0.117, below 0.211 (10% of the baseline).",
        "next": [
            Intention(what="gate the version of rl-1a2b3c4d, and swap it in if it passes"),
            Intention(what="measure the entropy of policy-v3", at=time.time() + 95),
        ],
        "measuring": None,
        "problem": "the probes are gone",
        "job": job(),
        "queued": 1,
        "waiting": [job(job_id="reheat-5e6f7a8b", kind="reheat", status="queued", request={"kind": "reheat"}, steps=0)],
        "cooldown_remaining_s": 75.0,
        "paused": [
            Pause(what="rounds", since=time.time() - 5, why="rl-1 and rl-2 ended in the same way: \u201cno\u201d")
        ],
        "learning": LearningView(
            steps=40,
            groups=4,
            varied=0.5,
            all_fail=3,
            all_pass=0.5,
            trends={"reward": SignalFigures(metric="reward", first=0.1, last=0.5)},
            notes=["the gradient norm spikes"],
        ),
        "reach": None,
        "uptime_s": 7300.0,
        "engines": [EngineHealth(ok=True, detail="", name="engine-0", url="http://127.0.0.1:1", in_flight=2)],
        "broker": PartHealth(ok=False, detail="the broker does not answer; see its log"),
        "workers": WorkersHealth(ok=True, detail="", configured=1, connected=1),
        "adapters_loaded": ["policy-v3"],
        "in_flight": 2,
        "requests": RequestTotals(total=17, failed=1),
        "recent": RecentRequests(per_second=0.5, seconds_p50=1.2, seconds_p95=4.0, first_token_seconds_p50=0.1),
    }
    return StatusView.model_validate(values | fields)
